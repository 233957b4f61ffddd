"""Clone and edit as plain async functions over three stage interfaces: testable without Ray or models.

The stages' results are awaited here, one after the other. Handing an unfinished language model response on to the
vocoder would save a hop of a few milliseconds, but Serve would count the wait as the vocoder's load and scale it.
"""

import asyncio
import hashlib
import time
from collections.abc import AsyncGenerator, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from deployments.types import (
    SAMPLE_RATE,
    Clip,
    ClonePrompt,
    EditPrompt,
    Generation,
    Prompt,
    Reference,
    Sampling,
    Speech,
)
from serve_app.quality import flaws, ran_away
from serve_app.voice_file import Voice

SEGMENTS_IN_WORK = 4
PAUSE_S = 0.15
RETRY_SEED = 2**32


class EncoderStage(Protocol):
    """Reference audio to tokens, mel and speaker vector."""

    async def encode(self, clip: Clip) -> Reference: ...


class LLMStage(Protocol):
    """Prompt to audio codes."""

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Generation: ...


class VocoderStage(Protocol):
    """Audio codes to samples."""

    async def synthesize(self, codes: np.ndarray, reference: Reference, seed: int) -> Speech: ...

    def stream(
        self, llm: LLMStage, prompt: Prompt, sampling: Sampling, reference: Reference
    ) -> AsyncGenerator[np.ndarray | Generation, None]:
        """Samples (n,) while ``llm`` still writes; the last item says how it ended."""
        ...


@dataclass(frozen=True)
class Stages:
    """The three stages; ``llm`` by variant."""

    encoder: EncoderStage
    llm: Mapping[str, LLMStage]
    vocoder: VocoderStage


@dataclass
class Timings:
    """Seconds a request spent in each stage; ``queue`` is the wait for the language model and the vocoder.

    ``cached``: every reference came out of the encoder's cache. ``retries``: speech that was made once more.
    """

    encode: float = 0.0
    queue: float = 0.0
    llm: float = 0.0
    vocode: float = 0.0
    cached: bool = True
    retries: int = 0
    started: float = field(default_factory=time.perf_counter)

    def milliseconds(self) -> dict[str, float]:
        """By stage, and the total until now."""
        total = time.perf_counter() - self.started
        stages = {"encode": self.encode, "queue": self.queue, "llm": self.llm, "vocode": self.vocode, "total": total}
        return {name: round(seconds * 1000, 1) for name, seconds in stages.items()}

    def header(self) -> str:
        """The Server-Timing header's value."""
        return ", ".join(f"{name};dur={duration}" for name, duration in self.milliseconds().items())


@dataclass(frozen=True)
class Audio:
    """What a request came to: float32 samples (n,) at 24 kHz, the tokens it took, and what is wrong with it."""

    samples: np.ndarray
    prompt_tokens: int
    audio_tokens: int
    flaws: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Draws:
    """How a request draws, and for which flaws it draws once more with another seed: none if the caller fixed it."""

    sampling: Sampling
    retry_on: frozenset[str] = frozenset()

    def numbered(self, number: int) -> "Draws":
        """The draws of the request's segment or round of that number."""
        return replace(self, sampling=replace(self.sampling, seed=(self.sampling.seed + number) % 2**63))


@dataclass(frozen=True)
class Piece:
    """Audio to edit, and what to do to it."""

    clip: Clip
    instruction: str


async def clone(stages: Stages, variant: str, voice: Voice, texts: list[str], draws: Draws, timings: Timings) -> Audio:
    """Speak ``texts``, one after the other, with ``voice``; the encoder is asked only for what is not known of it.

    A few are in work at a time; each has draws of its own, so that the order in which they end changes nothing.
    """
    reference = voice.reference or await encode(stages, voice.clip, timings)
    speaker, in_work = speaker_name(voice.transcript, voice.clip), asyncio.Semaphore(SEGMENTS_IN_WORK)

    async def speak(number: int, text: str) -> Audio:
        prompt = ClonePrompt(text, voice.transcript.strip(), reference.codes, speaker)
        async with in_work:
            return await _speak(stages, variant, prompt, reference, draws.numbered(number), timings)

    return joined(await _all([speak(number, text) for number, text in enumerate(texts)]))


async def edit(stages: Stages, variant: str, pieces: list[Piece], rounds: int, draws: Draws, timings: Timings) -> Audio:
    """Apply each piece's instruction to it, ``rounds`` times, and join them: they were cut where it was quiet."""
    in_work = asyncio.Semaphore(SEGMENTS_IN_WORK)

    async def work(number: int, piece: Piece) -> Audio:
        async with in_work:
            own = draws.numbered(number * rounds)
            return (await edit_rounds(stages, variant, piece, rounds, own, timings))[1]

    return joined(await _all([work(number, piece) for number, piece in enumerate(pieces)]), pause_s=0)


async def edit_rounds(
    stages: Stages, variant: str, piece: Piece, rounds: int, draws: Draws, timings: Timings
) -> tuple[Clip, Audio]:
    """The rounds of an edit, each of which takes the audio of the round before in full.

    Returns the last one's audio as a clip, and with the tokens that all took.
    """
    clip, prompt_tokens, audio_tokens = piece.clip, 0, 0
    for number in range(rounds):
        reference = await encode(stages, clip, timings)
        prompt = EditPrompt(piece.instruction, reference.codes)
        audio = await _speak(stages, variant, prompt, reference, draws.numbered(number), timings)
        clip = Clip(audio.samples[np.newaxis], SAMPLE_RATE)
        prompt_tokens += audio.prompt_tokens
        audio_tokens += audio.audio_tokens
    return clip, Audio(audio.samples, prompt_tokens, audio_tokens, audio.flaws)


def joined(audios: list[Audio], pause_s: float = PAUSE_S) -> Audio:
    """One audio out of several, a pause between them."""
    pause = np.zeros(round(pause_s * SAMPLE_RATE), np.float32)
    pieces = [piece for audio in audios for piece in (pause, audio.samples)][1:]
    return Audio(
        np.concatenate(pieces),
        sum(audio.prompt_tokens for audio in audios),
        sum(audio.audio_tokens for audio in audios),
        frozenset().union(*(audio.flaws for audio in audios)),
    )


async def _all(speaking: list[Coroutine[None, None, Audio]]) -> list[Audio]:
    """The results in order; the first failure ends the others."""
    tasks = [asyncio.ensure_future(each) for each in speaking]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        raise


def speaker_name(transcript: str, clip: Clip) -> str:
    """The name under which the prompt introduces a reference: a hash of its words and of both ends of its audio."""
    flat = np.ascontiguousarray(clip.samples, dtype=np.float32).reshape(-1)
    ends = np.concatenate([flat[:1000], flat[-1000:]]) if flat.size > 2000 else flat
    return "clone_" + hashlib.sha256(transcript.encode() + ends.tobytes()).hexdigest()[:16]


async def encode(stages: Stages, clip: Clip, timings: Timings) -> Reference:
    """A clip's reference; its time, and whether it came out of the cache, go into ``timings``."""
    start = time.perf_counter()
    reference = await stages.encoder.encode(clip)
    timings.encode += time.perf_counter() - start
    timings.cached = timings.cached and reference.cached
    return reference


async def _speak(
    stages: Stages, variant: str, prompt: Prompt, reference: Reference, draws: Draws, timings: Timings
) -> Audio:
    """Speech, or the better of two if the first has a flaw that calls for another try."""
    first = await _speak_once(stages, variant, prompt, reference, draws.sampling, timings)
    if not first.flaws & draws.retry_on:
        return first
    timings.retries += 1
    sampling = draws.numbered(RETRY_SEED).sampling
    second = await _speak_once(stages, variant, prompt, reference, sampling, timings)
    return min(first, second, key=lambda audio: len(audio.flaws))


async def _speak_once(
    stages: Stages, variant: str, prompt: Prompt, reference: Reference, sampling: Sampling, timings: Timings
) -> Audio:
    start = time.perf_counter()
    generation = await stages.llm[variant].generate(prompt, sampling)
    if not len(generation.codes):
        return Audio(np.empty(0, np.float32), generation.prompt_tokens, 0, frozenset({"empty"}))
    speech = await stages.vocoder.synthesize(generation.codes, reference, sampling.seed)
    timings.llm += generation.compute_s
    timings.vocode += speech.compute_s
    timings.queue += max(0.0, time.perf_counter() - start - generation.compute_s - speech.compute_s)
    wrong = flaws(speech.samples) | ran_away(generation, sampling)
    return Audio(speech.samples, generation.prompt_tokens, len(generation.codes), wrong)
