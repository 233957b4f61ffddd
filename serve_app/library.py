"""The voice library: a folder of stored voices, one file each, that all ingress replicas read and write.

Nothing is kept but what can be checked against the folder in one ``stat``: a voice stored, replaced or deleted by one
replica, or by hand, is so for all of them with the next request. Files appear whole or not at all; a damaged one
costs its own voice only. Writers take turns through a lock file, so that the caps hold for all together.
"""

import logging
import re
import unicodedata
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote, unquote

import numpy as np

from deployments.errors import InvalidInputError, NotFoundError, StageError
from deployments.types import Reference
from serve_app.shared_files import Held, Signature, only_writer, signature_of, write_whole
from serve_app.voice_file import DamagedVoice, Label, Voice, dump, read, read_label

logger = logging.getLogger("ray.serve")

SUFFIX = ".safetensors"
_NAME = re.compile(r"\w[\w.-]*")
_NAME_BYTES = 64  # percent-encoded three times as many, still a file name
_HELD_BYTES = 128 * 2**20


@dataclass(frozen=True)
class Caps:
    """The most voices, and the most bytes, that a library may hold."""

    voices: int
    size: int


def checked_name(text: str) -> str:
    """A name that a voice can be stored under. Raises InvalidInputError."""
    name = unicodedata.normalize("NFC", text.strip())
    if not _NAME.fullmatch(name) or len(name.encode()) > _NAME_BYTES:
        raise InvalidInputError(
            f"a voice's name has up to {_NAME_BYTES} bytes of letters, digits, '_', '-' and '.', not '-' or '.' first",
            "name",
            "invalid_name",
        )
    return name


class Library:
    """Stored voices by name. Safe to use from several threads and processes.

    Args:
        folder: made when the first voice is stored.
        weights: digest of the encoder's weights; references that others made are not handed out.
    """

    def __init__(self, folder: Path, weights: str, caps: Caps) -> None:
        self._folder = folder
        self._weights = weights
        self._caps = caps
        self._voices = Held[Voice](_HELD_BYTES)
        self._labels = Held[Label](_HELD_BYTES)
        self._reported: dict[str, Signature] = {}

    def get(self, name: str) -> Voice | None:
        """The voice of that name, None if there is none. Raises NotFoundError if its file is damaged."""
        path = self._path(name)
        signature = signature_of(path) if path else None
        if path is None or signature is None:
            return None
        name = unquote(path.stem)
        voice = self._voices.get(name, signature)
        if voice is None:
            try:
                voice = read(path, name, self._weights)
            except FileNotFoundError:
                return None
            except (DamagedVoice, OSError) as error:
                self._report(name, signature, error)
                raise NotFoundError(
                    f"the voice {name!r} is damaged: store it again", "voice", "voice_damaged"
                ) from None
            self._voices.put(name, signature, voice, voice.size)
        return voice

    def labels(self) -> list[Label]:
        """The labels of all voices that are not damaged."""
        return [label for path in self._files() if (label := self._label(path)) is not None]

    def put(self, voice: Voice) -> None:
        """Store a voice with its reference, in place of one of the same name.

        Raises: InvalidInputError if the library is full, StageError if the file cannot be written.
        """
        path, content = self._path(voice.name), dump(voice, self._weights)
        assert path is not None
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with only_writer(self._folder):
                self._check_room(path, len(content))
                write_whole(path, content)
        except OSError as error:
            raise StageError(f"the voice could not be stored: {error.strerror}") from error

    def refresh(self, voice: Voice, reference: Reference) -> None:
        """Give a stored voice the reference that today's weights made, unless it was replaced or deleted meanwhile."""
        path = self._path(voice.name)
        assert path is not None
        try:
            with only_writer(self._folder):
                stored = read(path, voice.name, self._weights)
                if stored.label == voice.label and np.array_equal(stored.clip.samples, voice.clip.samples):
                    write_whole(path, dump(replace(stored, reference=reference), self._weights))
        except (DamagedVoice, OSError) as error:  # it was spoken with all the same
            logger.warning("the voice %r keeps the reference of other weights: %s", voice.name, error)

    def delete(self, name: str) -> bool:
        """Whether there was such a voice; now there is none. Raises StageError if the file cannot be removed."""
        path = self._path(name)
        if path is None:
            return False
        try:
            with only_writer(self._folder):
                path.unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise StageError(f"the voice could not be deleted: {error.strerror}") from error
        return True

    def _path(self, name: str) -> Path | None:
        """Where a voice of that name would lie; None for what cannot be one's name."""
        try:
            return self._folder / f"{quote(checked_name(name), safe='')}{SUFFIX}"
        except InvalidInputError:
            return None

    def _files(self) -> list[Path]:
        try:
            return sorted(path for path in self._folder.iterdir() if path.suffix == SUFFIX)
        except FileNotFoundError:  # nothing was stored yet
            return []

    def _label(self, path: Path) -> Label | None:
        name, signature = unquote(path.stem), signature_of(path)
        if signature is None or self._path(name) != path:
            return None
        label = self._labels.get(name, signature)
        if label is None:
            try:
                label = read_label(path, name)
            except FileNotFoundError:
                return None
            except (DamagedVoice, OSError) as error:
                self._report(name, signature, error)
                return None
            self._labels.put(name, signature, label, len(repr(label)))
        return label

    def _report(self, name: str, signature: Signature, error: Exception) -> None:
        """Say so once in the log, not with every listing."""
        if self._reported.get(name) == signature:
            return
        self._reported[name] = signature
        logger.error("the stored voice %r (%d bytes) is damaged and left out: %s", name, signature[2], error)

    def _check_room(self, path: Path, size: int) -> None:
        others = [signature_of(file) for file in self._files() if file != path]
        sizes = [signature[2] for signature in others if signature is not None]
        if len(sizes) >= self._caps.voices or sum(sizes) + size > self._caps.size:
            raise InvalidInputError(
                f"the library is full ({self._caps.voices} voices, {self._caps.size / 2**20:g} MiB): delete a voice",
                "name",
                "voices_full",
            )
