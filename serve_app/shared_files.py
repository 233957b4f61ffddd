"""Files that several processes read and write: seen to change, written whole, by one writer at a time."""

import contextlib
import errno
import fcntl
import os
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Generic, TypeVar

PATIENCE_S = 10.0
Signature = tuple[int, int, int]  # inode, time of change in ns, bytes
T = TypeVar("T")


class Held(Generic[T]):
    """What was read of files, each as long as its file stays the same; the least recently used are dropped."""

    def __init__(self, limit: int) -> None:
        self._limit, self._size = limit, 0
        self._items: OrderedDict[str, tuple[Signature, T, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, name: str, signature: Signature) -> T | None:
        with self._lock:
            if name not in self._items or self._items[name][0] != signature:
                return None
            self._items.move_to_end(name)
            return self._items[name][1]

    def put(self, name: str, signature: Signature, item: T, size: int) -> None:
        with self._lock:
            self._size += size - (self._items.pop(name)[2] if name in self._items else 0)
            self._items[name] = (signature, item, size)
            while self._size > self._limit:
                self._size -= self._items.popitem(last=False)[1][2]


def signature_of(path: Path) -> Signature | None:
    """What changes whenever the file does; None if it is not there."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


@contextlib.contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """The only writer to a folder among all threads and processes. Raises TimeoutError if another stays that."""
    with (folder / ".lock").open("w") as file:  # closing it releases the lock, as the end of a process does
        _lock(file.fileno(), PATIENCE_S)
        yield


def _lock(file: int, patience_s: float) -> None:
    """Without a limit a writer that was stopped would stop all others."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise TimeoutError(errno.ETIMEDOUT, "another writer keeps the lock") from None
            time.sleep(0.01)


def write_whole(path: Path, content: bytes) -> None:
    """All of a file or nothing, on the disk when this returns. Only for the ``only_writer``."""
    for abandoned in path.parent.glob(".*.tmp"):
        abandoned.unlink()
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
