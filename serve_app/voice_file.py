"""A voice, and a stored voice as one safetensors file: its clip, what the encoder made of it, its words in the header.

The header carries a digest over all of it, so that a damaged file is noticed before anything is spoken with it.
"""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from deployments.types import Clip, Reference

VERSION = "1"
_ARRAYS = ("clip", "vq02", "vq06", "mel", "speaker")


class DamagedVoice(Exception):
    """A file that is not a whole voice."""


@dataclass(frozen=True)
class Label:
    """What a listing says of a voice: ``duration`` in seconds, ``created`` in Unix time; presets have none."""

    name: str
    transcript: str
    duration: float
    language: str = ""
    description: str = ""
    consent: str = ""
    created: int | None = None


@dataclass(frozen=True)
class Voice:
    """A reference to clone from. ``reference`` None: the encoder has yet to make it, with the weights in use."""

    label: Label
    clip: Clip
    reference: Reference | None = None

    @property
    def name(self) -> str:
        return self.label.name

    @property
    def transcript(self) -> str:
        return self.label.transcript

    @property
    def stale(self) -> bool:
        """A named voice without a reference by these weights: a preset's first use, or a file of other weights."""
        return self.reference is None and bool(self.label.name)

    @property
    def size(self) -> int:
        """Bytes of its arrays."""
        reference = self.reference
        encoded = (reference.vq02, reference.vq06, reference.mel, reference.speaker) if reference else ()
        return self.clip.samples.nbytes + sum(array.nbytes for array in encoded)


def dump(voice: Voice, weights: str) -> bytes:
    """A voice with its reference as a file's content; ``weights`` is the digest of those that made the reference."""
    reference, label = voice.reference, voice.label
    assert reference is not None and label.created is not None
    arrays = {
        "clip": voice.clip.samples.astype(np.float32, copy=False),
        "vq02": reference.vq02,
        "vq06": reference.vq06,
        "mel": reference.mel,
        "speaker": reference.speaker,
    }
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    header = {
        "version": VERSION,
        "weights": weights,
        "transcript": label.transcript,
        "language": label.language,
        "description": label.description,
        "consent": label.consent,
        "created": str(label.created),
        "duration": repr(label.duration),
        "encoded_duration": repr(reference.duration),
        "sample_rate": str(voice.clip.sample_rate),
    }
    return save(arrays, header | {"digest": _digest(header, arrays)})


def read_label(path: Path, name: str) -> Label:
    """The label of the voice in a file, from its header alone. Raises DamagedVoice, or OSError if it is not there."""
    try:
        with safe_open(path, framework="numpy") as file:
            return _label(name, _header(file.metadata()))
    except (SafetensorError, KeyError, ValueError) as error:
        raise DamagedVoice(f"{type(error).__name__}: {error}") from error


def read(path: Path, name: str, weights: str) -> Voice:
    """The whole voice; without its reference if other weights made that. Raises as ``read_label``."""
    try:
        with safe_open(path, framework="numpy") as file:
            header = _header(file.metadata())
            arrays = {key: file.get_tensor(key) for key in _ARRAYS}
        if header.pop("digest") != _digest(header, arrays):
            raise ValueError("its digest differs")
        voice = _voice(_label(name, header), header, arrays)
    except (SafetensorError, KeyError, ValueError) as error:
        raise DamagedVoice(f"{type(error).__name__}: {error}") from error
    return voice if header["weights"] == weights else replace(voice, reference=None)


def _header(metadata: dict[str, str] | None) -> dict[str, str]:
    header = dict(metadata or {})
    if header.get("version") != VERSION:
        raise ValueError(f"it has version {header.get('version')}, expected {VERSION}")
    return header


def _label(name: str, header: dict[str, str]) -> Label:
    texts = {key: header[key] for key in ("transcript", "language", "description", "consent")}
    return Label(name, duration=float(header["duration"]), created=int(header["created"]), **texts)


def _voice(label: Label, header: dict[str, str], arrays: dict[str, np.ndarray]) -> Voice:
    clip = Clip(arrays["clip"], int(header["sample_rate"]))
    codes = (arrays["vq02"], arrays["vq06"])
    return Voice(label, clip, Reference(*codes, arrays["mel"], arrays["speaker"], float(header["encoded_duration"])))


def _digest(header: dict[str, str], arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.blake2b(json.dumps(header, sort_keys=True).encode(), digest_size=16)
    for name in _ARRAYS:
        digest.update(f"{name}/{arrays[name].shape}/{arrays[name].dtype}/".encode())
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()
