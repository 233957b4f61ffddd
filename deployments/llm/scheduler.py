"""Which slot does what next: a plain state machine, without tensors, threads or clocks.

Requests wait in the order they came, take the first free slot, are prefilled in chunks, and decode until they
stop or their budget is used. Between two chunks every decoding slot gets a step, so that a long prompt never
starves running speech. Steps are launched before the results of earlier ones are known; a result that comes for
a request that has ended is dropped.
"""

from collections import deque
from dataclasses import dataclass
from enum import Enum, auto
from heapq import heapify, heappop, heappush

from deployments.errors import OverloadedError


class Finish(Enum):
    """Why a request ended."""

    STOP = auto()
    LENGTH = auto()


@dataclass(frozen=True)
class Prefill:
    """Run tokens ``start`` to ``end`` of a request's prompt in its slot; ``first`` says that the slot is new."""

    key: int
    slot: int
    start: int
    end: int
    first: bool
    last: bool


@dataclass(frozen=True)
class Plan:
    """One turn: at most one chunk, then one step of these (key, slot) pairs."""

    prefill: Prefill | None
    decode: tuple[tuple[int, int], ...]

    def __bool__(self) -> bool:
        return self.prefill is not None or bool(self.decode)


@dataclass
class _Request:
    key: int
    prompt: int
    budget: int
    slot: int = -1
    prefilled: int = 0
    launched: int = 0
    seen: int = 0


class Scheduler:
    """Slots and requests; keys are the caller's and never used twice."""

    def __init__(self, slots: int, chunk: int, max_waiting: int) -> None:
        self.slots = slots
        self._chunk = chunk
        self._max_waiting = max_waiting
        self._free = list(range(slots))
        self._waiting: deque[_Request] = deque()
        self._running: dict[int, _Request] = {}

    @property
    def waiting(self) -> int:
        """Requests without a slot."""
        return len(self._waiting)

    @property
    def occupied(self) -> int:
        """Slots in use."""
        return len(self._running)

    @property
    def tokens(self) -> int:
        """Cache positions in use over all slots."""
        return sum(request.prefilled + max(0, request.launched - 1) for request in self._running.values())

    def add(self, key: int, prompt: int, budget: int) -> None:
        """Queue a request of ``prompt`` tokens that may draw ``budget`` more. Raises OverloadedError."""
        assert prompt > 0 and budget > 0
        if len(self._waiting) >= self._max_waiting + len(self._free):
            raise OverloadedError(f"{len(self._waiting)} requests are waiting for the language model")
        self._waiting.append(_Request(key, prompt, budget))

    def remove(self, key: int) -> None:
        """Forget a request, wherever it is; its slot is free at once."""
        request = self._running.pop(key, None)
        if request is not None:
            heappush(self._free, request.slot)
        self._waiting = deque(request for request in self._waiting if request.key != key)

    def clear(self) -> list[int]:
        """Forget every request that has a slot, and say which they were."""
        keys = list(self._running)
        for key in keys:
            self.remove(key)
        return keys

    def plan(self) -> Plan:
        """What to launch next; it counts as launched."""
        self._admit()
        prefill = self._next_chunk()
        decoding = [request for request in self._running.values() if 0 < request.launched < request.budget]
        if prefill is not None and prefill.last:  # its first token is drawn with the chunk
            self._running[prefill.key].launched = 1
        for request in decoding:
            request.launched += 1
        return Plan(prefill, tuple((request.key, request.slot) for request in decoding))

    def accept(self, key: int, stop: bool) -> Finish | None:
        """A result came for a request: is it over? Its slot is free then. The caller drops results of others."""
        request = self._running[key]
        request.seen += 1
        if not stop and request.seen < request.budget:
            return None
        self.remove(key)
        return Finish.STOP if stop else Finish.LENGTH

    def __contains__(self, key: int) -> bool:
        return key in self._running

    def _admit(self) -> None:
        heapify(self._free)
        while self._waiting and self._free:
            request = self._waiting.popleft()
            request.slot = heappop(self._free)
            self._running[request.key] = request

    def _next_chunk(self) -> Prefill | None:
        request = next((one for one in self._running.values() if one.prefilled < one.prompt), None)
        if request is None:
            return None
        start = request.prefilled
        request.prefilled = min(request.prompt, start + self._chunk)
        last = request.prefilled == request.prompt
        return Prefill(request.key, request.slot, start, request.prefilled, start == 0, last)
