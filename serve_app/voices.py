"""Preset voices: clips with their transcripts, from folders that hold a voices.json."""

import json
from dataclasses import dataclass
from pathlib import Path

from deployments.errors import NotFoundError
from deployments.types import Clip
from serve_app.audio_format import ClipLimits, decode

PRESETS = Path(__file__).parent / "voices"


@dataclass(frozen=True)
class Voice:
    """A reference to clone from."""

    name: str
    clip: Clip
    transcript: str
    language: str
    description: str


class Voices:
    """The voices that requests may name.

    Args:
        folders: each with a voices.json (name -> file, transcript, language, description); later ones win.
    """

    def __init__(self, folders: list[Path], limits: ClipLimits) -> None:
        self._voices = {voice.name: voice for folder in folders for voice in _read(folder, limits)}

    def get(self, name: str) -> Voice:
        """The voice of that name. Raises NotFoundError."""
        if name not in self._voices:
            raise NotFoundError(f"no voice is named {name!r}; see /v1/audio/voices", "voice", "voice_not_found")
        return self._voices[name]

    def all(self) -> list[Voice]:
        """Every voice, by name."""
        return [self._voices[name] for name in sorted(self._voices)]


def _read(folder: Path, limits: ClipLimits) -> list[Voice]:
    entries = json.loads((folder / "voices.json").read_text(encoding="utf-8"))
    return [
        Voice(
            name,
            decode((folder / entry["file"]).read_bytes(), limits),
            entry["transcript"],
            entry.get("language", ""),
            entry.get("description", ""),
        )
        for name, entry in entries.items()
    ]
