"""The voices that requests may name: presets from folders that hold a voices.json, and those of the library."""

import json
from dataclasses import replace
from pathlib import Path

from deployments.errors import InvalidInputError, NotFoundError
from deployments.types import Reference
from serve_app.audio_format import ClipLimits, decode
from serve_app.config import AppArgs
from serve_app.library import Caps, Library, checked_name
from serve_app.voice_file import Label, Voice

PRESETS = Path(__file__).parent / "voices"


class Voices:
    """Presets, and the library where there is one.

    Args:
        folders: each with a voices.json (name -> file, transcript, language, description); later ones win.
        library: None where no voices can be stored.
    """

    def __init__(self, folders: list[Path], limits: ClipLimits, library: Library | None = None) -> None:
        self._presets = {voice.name: voice for folder in folders for voice in _read(folder, limits)}
        self._library = library

    def get(self, name: str) -> Voice:
        """The voice of that name. Raises NotFoundError."""
        voice = self._presets.get(name) or (self._library.get(name) if self._library else None)
        if voice is None:
            raise _unknown(name)
        return voice

    def labels(self) -> list[Label]:
        """What there is to say of every voice, by name."""
        stored = self._library.labels() if self._library else []
        labels = {label.name: label for label in stored} | {
            name: preset.label for name, preset in self._presets.items()
        }
        return [labels[name] for name in sorted(labels)]

    def free_name(self, text: str) -> str:
        """A name under which a voice may be stored; one that is stored already may be replaced.

        Raises: InvalidInputError for a malformed name, a preset's, or where nothing can be stored.
        """
        name = checked_name(text)
        self._writable(name, "name")
        return name

    def put(self, voice: Voice) -> None:
        """Store a voice under its free name. Raises InvalidInputError if the library is full, StageError."""
        self._writable(voice.name, "name").put(voice)

    def refresh(self, voice: Voice, reference: Reference) -> None:
        """Keep what the weights in use made of a named voice: a preset's in memory, a stored one's in its file."""
        if voice.name in self._presets:
            self._presets[voice.name] = replace(voice, reference=replace(reference, cached=True))
        elif self._library is not None and voice.label.created is not None:
            self._library.refresh(voice, reference)

    def delete(self, name: str) -> None:
        """Raises NotFoundError, InvalidInputError for a preset or where nothing is stored, StageError."""
        if not self._writable(name, "voice").delete(name):
            raise _unknown(name)

    def _writable(self, name: str, param: str) -> Library:
        if name in self._presets:
            raise InvalidInputError(f"the voice {name!r} is a preset: it stays as it is", param, "voice_is_preset")
        if self._library is None:
            raise InvalidInputError(
                "this server stores no voices; its configuration can name a voices_dir", param, "voices_not_stored"
            )
        return self._library


def library(args: AppArgs, weights: str) -> Library | None:
    """The library that the configuration names, for references of these ``weights``."""
    if args.voices_dir is None:
        return None
    return Library(args.voices_dir, weights, Caps(args.limits.max_voices, int(args.limits.max_voices_mb * 2**20)))


def _unknown(name: str) -> NotFoundError:
    return NotFoundError(f"no voice is named {name!r}; see /v1/audio/voices", "voice", "voice_not_found")


def _read(folder: Path, limits: ClipLimits) -> list[Voice]:
    entries = json.loads((folder / "voices.json").read_text(encoding="utf-8"))
    return [_preset(folder, name, entry, limits) for name, entry in entries.items()]


def _preset(folder: Path, name: str, entry: dict[str, str], limits: ClipLimits) -> Voice:
    clip = decode((folder / entry["file"]).read_bytes(), limits)
    language, description = entry.get("language", ""), entry.get("description", "")
    return Voice(Label(name, entry["transcript"], clip.duration, language, description), clip)
