"""A folder of encoded clips, one safetensors file each, that several replicas may read and write at the same time.

A file appears whole or not at all (it is renamed into place) and carries a digest of its arrays, so that a damaged
one is noticed, removed and computed anew. The oldest by last use go when the folder outgrows its limit.
"""

import contextlib
import hashlib
import logging
import os
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from deployments.types import Reference

logger = logging.getLogger(__name__)
SUFFIX = ".safetensors"
ARRAYS = ("vq02", "vq06", "mel", "speaker", "duration")
KEEP_SHARE = 0.9
WRITES_BETWEEN_SCANS = 64  # other replicas' files are seen only by a scan
ABANDONED_S = 3600.0


class Store:
    """The folder.

    Args:
        folder: made if it is not there.
        limit: bytes that its files are kept under.
        observe: told of every ``folder_eviction``, ``corrupt`` and ``folder_error``.
    """

    def __init__(self, folder: Path, limit: int, observe: Callable[[str], None]) -> None:
        self.folder, self.limit, self.observe = folder, limit, observe
        self.size, self.writes = 0, 0
        folder.mkdir(parents=True, exist_ok=True)
        self._shrink()

    def read(self, key: str) -> Reference | None:
        """An entry, or None if there is none or it is damaged."""
        path = self._path(key)
        try:
            content = path.read_bytes()
            with contextlib.suppress(PermissionError):  # of a folder that may only be read
                os.utime(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._failed("read", error)
            return None
        try:
            return _decode(content)
        except (SafetensorError, KeyError, ValueError):
            logger.warning("%s is damaged, it will be computed anew", path)
            self.observe("corrupt")
            path.unlink(missing_ok=True)
            return None

    def write(self, key: str, reference: Reference) -> None:
        """Add an entry; a folder that cannot be written is only a slower cache."""
        path = self._path(key)
        temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
        content = _encode(reference)
        try:
            path.parent.mkdir(exist_ok=True)
            temporary.write_bytes(content)
            temporary.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            self._failed("write", error)
            return
        self.size += len(content)
        self.writes += 1
        if self.size > self.limit or self.writes % WRITES_BETWEEN_SCANS == 0:
            self._shrink()

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}{SUFFIX}"

    def _shrink(self) -> None:
        """Measure the folder; if it is over the limit, drop the files used longest ago, and leave some room."""
        files = sorted(_stats(self.folder.glob(f"*/*{SUFFIX}")), key=lambda item: item[1])
        for path, last_use, _ in _stats(self.folder.glob("*/.*.tmp")):
            if time.time() - last_use > ABANDONED_S:
                path.unlink(missing_ok=True)
        self.size = sum(size for _, _, size in files)
        if self.size <= self.limit:
            return
        for path, _, size in files:
            if self.size <= self.limit * KEEP_SHARE:
                break
            path.unlink(missing_ok=True)
            self.size -= size
            self.observe("folder_eviction")

    def _failed(self, what: str, error: OSError) -> None:
        logger.warning("the encoder's cache folder %s: cannot %s: %s", self.folder, what, error)
        self.observe("folder_error")


def _stats(paths: Iterable[Path]) -> list[tuple[Path, float, int]]:
    """Path, time of last use and size of files; another replica may remove them meanwhile."""
    found = []
    for path in paths:
        try:
            stat = path.stat()
        except FileNotFoundError:
            continue
        found.append((path, stat.st_mtime, stat.st_size))
    return found


def _encode(reference: Reference) -> bytes:
    arrays = {name: np.atleast_1d(np.asarray(getattr(reference, name))) for name in ARRAYS}
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    return save(arrays | {"digest": _digest(arrays)})


def _decode(content: bytes) -> Reference:
    """Raises SafetensorError, KeyError or ValueError for what is not a whole entry."""
    arrays = load(content)
    digest = arrays.pop("digest")
    if arrays.keys() != set(ARRAYS) or not np.array_equal(digest, _digest(arrays)):
        raise ValueError("digest differs")
    return Reference(arrays["vq02"], arrays["vq06"], arrays["mel"], arrays["speaker"], float(arrays["duration"][0]))


def _digest(arrays: dict[str, np.ndarray]) -> np.ndarray:
    digest = hashlib.blake2b(digest_size=16)
    for name in ARRAYS:
        digest.update(f"{name}/{arrays[name].shape}/{arrays[name].dtype}/".encode())
        digest.update(arrays[name].tobytes())
    return np.frombuffer(digest.digest(), dtype=np.uint8)
