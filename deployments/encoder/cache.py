"""Encoded clips by content: the most recent in memory, more of them in a folder that restarts and replicas share."""

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

from deployments.encoder.fingerprint import of_clip
from deployments.encoder.store import Store
from deployments.types import Clip, Reference

logger = logging.getLogger(__name__)
ENTRY_BYTES = 1024  # of Python around an entry's arrays
Observe = Callable[[str], None]


class Memory:
    """References by key, the least recently used dropped once their arrays exceed ``limit`` bytes."""

    def __init__(self, limit: int, observe: Observe) -> None:
        self.limit, self.observe = limit, observe
        self.size = 0
        self.entries: OrderedDict[str, Reference] = OrderedDict()
        self.lock = threading.Lock()

    def get(self, key: str) -> Reference | None:
        """The entry, now the most recently used."""
        with self.lock:
            if key in self.entries:
                self.entries.move_to_end(key)
            return self.entries.get(key)

    def put(self, key: str, reference: Reference) -> None:
        """Keep an entry; one larger than the limit is not kept."""
        with self.lock:
            if key in self.entries:
                self.size -= _size(self.entries.pop(key))
            self.entries[key] = reference
            self.size += _size(reference)
            while self.size > self.limit:
                self.size -= _size(self.entries.popitem(last=False)[1])
                self.observe("memory_eviction")


class Cache:
    """Memory in front of a folder. Safe to use from several threads.

    Args:
        weights: the digest of the weights that clips are encoded with.
        memory_bytes: limit of the arrays in memory; 0 keeps none.
        store: the folder, or None.
        observe: told of every ``memory_hit``, ``folder_hit``, ``miss``, ``memory_eviction``, and the folder's events.
    """

    def __init__(self, weights: str, memory_bytes: int, store: Store | None, observe: Observe) -> None:
        self.weights, self.store, self.observe = weights, store, observe
        self.memory = Memory(memory_bytes, observe)

    def key(self, clip: Clip) -> str:
        """The key of a clip's encoding."""
        return of_clip(clip, self.weights)

    def find(self, key: str) -> Reference | None:
        """A clip's encoding, marked as cached."""
        found = self.memory.get(key)
        event = "memory_hit"
        if found is None and self.store is not None:
            found, event = self.store.read(key), "folder_hit"
            if found is not None:
                self.memory.put(key, found)
        self.observe(event if found is not None else "miss")
        return replace(found, cached=True) if found is not None else None

    def keep(self, key: str, reference: Reference) -> None:
        """Add a clip's encoding."""
        self.memory.put(key, reference)
        if self.store is not None:
            self.store.write(key, reference)


def _size(reference: Reference) -> int:
    arrays = (reference.vq02, reference.vq06, reference.mel, reference.speaker)
    return sum(array.nbytes for array in arrays) + ENTRY_BYTES
