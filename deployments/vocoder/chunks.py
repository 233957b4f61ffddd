"""When a stream's codes become a chunk: pure bookkeeping, apart from any tensor.

Chunks are 15, 24, then always 48 pairs long (0.6, 0.96 and 1.92 s), each followed by three pairs that it may look
ahead to. The first three pairs are wanted at once, to prepare the prompt with. Cutting depends on the codes alone,
not on when they arrive, unless the caller is busy and asks for longer chunks.
"""

from dataclasses import dataclass, field

import numpy as np

from deployments.types import GROUP_SIZE
from deployments.vocoder.pairs import PAIRS_PER_GROUP

SCHEDULE = (15, 24, 48)
LOOKAHEAD_CODES = GROUP_SIZE


@dataclass(frozen=True)
class Chunk:
    """Codes (n,) to synthesise next; unless ``last``, the final five are there to look ahead to only."""

    codes: np.ndarray
    last: bool


@dataclass
class Chunks:
    """The codes of one stream, in chunks.

    schedule: lengths in pairs, multiples of three, at least nine; the last one repeats. busy: the length taken by
    ``next(busy=True)`` when that much is waiting.
    """

    schedule: tuple[int, ...] = SCHEDULE
    busy: int = 96
    _codes: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    _given: int = 0
    _ended: bool = False

    def __post_init__(self) -> None:
        for pairs in (*self.schedule, self.busy):
            if pairs < 3 * PAIRS_PER_GROUP or pairs % PAIRS_PER_GROUP:
                raise ValueError(f"chunk lengths must be multiples of 3 pairs and at least 9, not {pairs}")

    @property
    def waiting(self) -> int:
        """Codes that no chunk has taken yet."""
        return len(self._codes)

    @property
    def exhausted(self) -> bool:
        """Whether the last chunk was taken."""
        return self._ended and not self.waiting

    def feed(self, codes: np.ndarray) -> None:
        """More codes (n,)."""
        assert not self._ended
        self._codes = np.concatenate([self._codes, codes])

    def end(self) -> None:
        """No more codes will come."""
        self._ended = True

    def opening(self) -> np.ndarray | None:
        """The codes to open the stream with, once they are there; they are not used up."""
        if self.waiting >= LOOKAHEAD_CODES or (self._ended and self.waiting):
            return self._codes[:LOOKAHEAD_CODES]
        return None

    def next(self, busy: bool = False) -> Chunk | None:
        """The next chunk, if enough codes are there."""
        wanted = self._size(self.schedule[min(self._given, len(self.schedule) - 1)])
        if busy and self.waiting >= self._size(self.busy) + LOOKAHEAD_CODES:
            wanted = self._size(self.busy)
        if self.waiting >= wanted + LOOKAHEAD_CODES:
            chunk = Chunk(self._codes[: wanted + LOOKAHEAD_CODES], False)
            self._codes = self._codes[wanted:]
        elif self._ended and self.waiting:
            chunk = Chunk(self._codes, True)
            self._codes = self._codes[:0]
        else:
            return None
        self._given += 1
        return chunk

    @staticmethod
    def _size(pairs: int) -> int:
        return pairs // PAIRS_PER_GROUP * GROUP_SIZE
