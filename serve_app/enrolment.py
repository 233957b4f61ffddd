"""From what a caller uploads to a voice that the encoder can take: every check that needs no model."""

import time
from dataclasses import dataclass

from deployments.errors import InvalidInputError
from deployments.types import Clip
from serve_app.audio_format import ClipLimits
from serve_app.config import Limits
from serve_app.requests import check_characters, decode_field
from serve_app.voice_file import Label, Voice


@dataclass(frozen=True)
class NewVoice:
    """A voice as a caller sends it: ``audio`` in any container, ``transcript`` what it says."""

    name: str
    audio: bytes
    transcript: str
    description: str = ""
    consent: str = ""


def checked(new: NewVoice, name: str, limits: Limits) -> Voice:
    """The voice under ``name``, without its reference. Raises InvalidInputError."""
    transcript = new.transcript.strip()
    if not any(character.isalnum() for character in transcript):
        raise InvalidInputError("a voice needs the transcript of its audio", "transcript", "missing_field")
    check_characters(transcript, limits.max_input_chars, "transcript")
    clip = decode_field(new.audio, ClipLimits(limits.min_voice_s, limits.max_clip_s), "audio_sample")
    mono = Clip(clip.samples.mean(axis=0, keepdims=True), clip.sample_rate)  # all that the encoder hears
    created = int(time.time())
    label = Label(name, transcript, clip.duration, "", new.description, new.consent, created)
    return Voice(label, mono)
