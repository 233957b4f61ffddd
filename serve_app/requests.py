"""From a request body to a job that the pipeline can run: every check that needs no model is made here."""

import base64
import binascii
import re
import secrets
from dataclasses import dataclass, replace

from deployments.errors import InvalidInputError, NotFoundError
from deployments.llm.prompt import edit_instruction, edit_types
from deployments.types import Clip, Sampling
from serve_app.audio_format import ClipLimits, decode
from serve_app.config import AppArgs, Variant
from serve_app.pipeline import Draws, Piece
from serve_app.schemas import Format, Mode, SpeechRequest, StepAudio
from serve_app.split import split
from serve_app.text import distribute, segments
from serve_app.voice_file import Label, Voice
from serve_app.voices import Voices

MODEL = "step-audio-editx"
_NEEDS_OPTION = {"emotion", "style", "speed"}
_NEEDS_TRANSCRIPT = {"emotion", "style", "speed", "paralinguistic"}
# No writing system stacks so many marks on one letter; each would cost tokens and say nothing.
_STACKED_MARKS = re.compile(r"[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]{9}")
_MARKUP = re.compile(r"<\|[^|<>]{1,32}\|>|<audio_\d+>|</?s>|<unk>")
# Adverbs by the upper end of their range of intensities; exactly 1.0 puts none.
_ADVERBS = ((0.4, "slightly"), (0.7, "mildly"), (1.0, "somewhat"), (1.5, "noticeably"), (2.2, "strongly"))


@dataclass(frozen=True)
class Job:
    """A checked request.

    voice: the reference; texts: what to speak with it, in segments (clone).
    pieces: the audio to edit with what to do to it; rounds: how often (edits).
    """

    mode: Mode
    variant: Variant
    draws: Draws
    format: Format
    speed: float
    voice: Voice | None = None
    texts: tuple[str, ...] = ()
    pieces: tuple[Piece, ...] = ()
    rounds: int = 1


@dataclass(frozen=True)
class Uploads:
    """Audio that came beside the JSON or was fetched from its URLs, as bytes."""

    prompt_audio: bytes | None = None
    input_audio: bytes | None = None


def check_sources(body: SpeechRequest, uploads: Uploads, allow_urls: bool) -> None:
    """Each audio may come one way only, and by URL only where that is allowed. Raises InvalidInputError."""
    options = body.step_audio or StepAudio()
    for name, upload in (("prompt_audio", uploads.prompt_audio), ("input_audio", uploads.input_audio)):
        url = getattr(options, f"{name}_url")
        given = [source for source in (upload, getattr(options, f"{name}_base64"), url) if source]
        if len(given) > 1:
            raise InvalidInputError(f"{name} is given in more than one way", f"step_audio.{name}_base64", "conflict")
        if url and not allow_urls:
            raise InvalidInputError("this server fetches no URLs", f"step_audio.{name}_url", "url_not_allowed")


class Planner:
    """Turns bodies into jobs, against what is deployed and which voices there are."""

    def __init__(self, args: AppArgs, variants: list[Variant], voices: Voices) -> None:
        self._args = args
        self._variants = variants
        self._voices = voices
        self._limits = ClipLimits(args.limits.min_clip_s, args.limits.max_clip_s)

    def plan(self, body: SpeechRequest, uploads: Uploads) -> Job:
        """A job, or InvalidInputError / NotFoundError with the field that is at fault."""
        options = body.step_audio or StepAudio()
        self._check_text(body.input, options.mode)
        _check_markup(body, options)
        job = Job(
            mode=options.mode,
            variant=self._variant(body.model, options.model_variant),
            draws=self._draws(body),
            format=body.response_format or ("wav" if body.step_audio else "mp3"),
            speed=body.speed,
        )
        if options.mode == "clone":
            voice = self._reference(body, options, uploads)
            texts = segments(body.input.strip(), self._args.limits.segment_s)
            return replace(job, voice=voice, texts=tuple(texts))
        pieces = self._pieces(body, options, uploads)
        return replace(job, pieces=tuple(pieces), rounds=options.n_edit_iter)

    def _check_text(self, text: str, mode: Mode) -> None:
        check_characters(text, self._args.limits.max_input_chars, "input")
        if mode in ("clone", "paralinguistic") and not any(c.isalnum() for c in text):
            raise InvalidInputError(f"mode {mode} needs input with something to speak", "input", "text_empty")

    def _variant(self, model: str, option: Variant | None) -> Variant:
        if model == MODEL:
            named, param = option or self._args.default_among(self._variants), "step_audio.model_variant"
        else:
            named, param = self._from_model(model), "model"
            if option is not None and option != named:
                raise InvalidInputError(
                    f"model {model} and model_variant {option} differ", "step_audio.model_variant", "variant_conflict"
                )
        if named not in self._variants:
            raise NotFoundError(f"variant {named} is not deployed", param, "model_not_found")
        return named

    def _from_model(self, model: str) -> Variant:
        for variant in self._variants:
            if model == f"{MODEL}-{variant}":
                return variant
        raise NotFoundError(f"no model is named {model!r}; see /v1/models", "model", "model_not_found")

    def _draws(self, body: SpeechRequest) -> Draws:
        seed = secrets.randbits(63) if body.seed is None else body.seed
        sampling = Sampling(seed, body.temperature, body.top_k, body.max_new_tokens)
        return Draws(sampling, frozenset(self._args.retry_on) if body.seed is None else frozenset())

    def _pieces(self, body: SpeechRequest, options: StepAudio, uploads: Uploads) -> list[Piece]:
        """The audio to edit, cut where it is quiet if it is long, and its text over the pieces by their lengths."""
        option = _edit_option(options, (body.instructions or "").strip()) if options.mode in _NEEDS_OPTION else ""
        clip, transcript = self._source(options, uploads)
        clips = split(clip, self._limits.max_s)
        durations = [piece.duration for piece in clips]
        words, texts = distribute(transcript, durations), distribute(body.input.strip(), durations)
        if len(clips) > 1 and transcript and not all(words):
            raise InvalidInputError(
                "the transcript is too short for audio of this length", "step_audio.audio_text", "invalid_text"
            )
        return [
            Piece(piece, edit_instruction(options.mode, option, spoken, text or spoken))
            for piece, spoken, text in zip(clips, words, texts, strict=True)
        ]

    def _source(self, options: StepAudio, uploads: Uploads) -> tuple[Clip, str]:
        data = uploads.input_audio or _from_base64(options.input_audio_base64, "step_audio.input_audio_base64")
        if data is None:
            raise InvalidInputError(
                f"mode {options.mode} needs the audio to edit", "step_audio.input_audio_base64", "missing_field"
            )
        transcript = (options.audio_text or "").strip()
        if options.mode in _NEEDS_TRANSCRIPT and not transcript:
            raise InvalidInputError(
                f"mode {options.mode} needs the transcript of the audio", "step_audio.audio_text", "missing_field"
            )
        limits = ClipLimits(self._limits.min_s, self._args.limits.max_edit_s)
        return decode_field(data, limits, "step_audio.input_audio_base64"), transcript

    def _reference(self, body: SpeechRequest, options: StepAudio, uploads: Uploads) -> Voice:
        data = uploads.prompt_audio or _from_base64(options.prompt_audio_base64, "step_audio.prompt_audio_base64")
        if data is None:
            named = body.voice if isinstance(body.voice, str) or body.voice is None else body.voice.id
            return self._voices.get(named or self._args.default_voice)
        transcript = (options.prompt_text or "").strip()
        if not transcript:
            raise InvalidInputError(
                "a reference of your own needs its transcript", "step_audio.prompt_text", "missing_field"
            )
        clip = decode_field(data, self._limits, "step_audio.prompt_audio_base64")
        return Voice(Label("", transcript, clip.duration), clip)


def decode_field(data: bytes, limits: ClipLimits, param: str) -> Clip:
    """The clip that came in the field ``param``. Raises InvalidInputError that names it."""
    try:
        return decode(data, limits)
    except InvalidInputError as error:
        raise InvalidInputError(error.message, param, error.code) from None


def check_characters(text: str, most: int, param: str) -> None:
    """Raises InvalidInputError, naming ``param``, for text that is too long or that no one could mean."""
    if "\0" in text:
        raise InvalidInputError(f"{param} holds a null character", param, "invalid_text")
    if _STACKED_MARKS.search(text):
        raise InvalidInputError(f"{param} stacks too many combining characters", param, "invalid_text")
    if len(text) > most:
        raise InvalidInputError(
            f"{param} has {len(text)} characters, at most {most} are allowed", param, "text_too_long"
        )


def _check_markup(body: SpeechRequest, options: StepAudio) -> None:
    """Text that the tokenizer would read as the prompt's own marks could end a turn or smuggle audio in."""
    texts = {"input": body.input, "instructions": body.instructions}
    texts |= {f"step_audio.{name}": getattr(options, name) for name in ("audio_text", "prompt_text")}
    for param, text in texts.items():
        if text and (found := _MARKUP.search(text)):
            raise InvalidInputError(f"{param} holds {found[0]}, which is a mark of the model", param, "invalid_text")


def _from_base64(text: str | None, param: str) -> bytes | None:
    if not text:
        return None
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidInputError(f"{param} is not valid base64", param, "invalid_base64") from None


def _edit_option(options: StepAudio, instructions: str) -> str:
    known = edit_types()[options.mode]
    if options.edit_info is None and not instructions:
        raise InvalidInputError(
            f"mode {options.mode} needs edit_info, one of: {', '.join(known)}", "step_audio.edit_info", "missing_field"
        )
    if options.edit_info is not None and options.edit_info not in known:
        raise InvalidInputError(
            f"unknown edit_info for mode {options.mode}; one of: {', '.join(known)}",
            "step_audio.edit_info",
            "unknown_edit_info",
        )
    if options.edit_info == "remove":
        return "remove"
    option = ", ".join(part for part in (options.edit_info, instructions) if part)
    adverb = _adverb(options.intensity)
    return f"{adverb} {option}" if adverb else option


def _adverb(intensity: float) -> str:
    if intensity == 1.0:
        return ""
    return next((adverb for upper, adverb in _ADVERBS if intensity <= upper), "dramatically")
