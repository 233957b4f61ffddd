"""Memory for streams: each takes a known number of bytes, and those that do not fit wait their turn."""

import asyncio
from collections import deque

import torch

_ON_CPU = 2 << 30
_WORKING = 1 << 30
_LEAST = 512 << 20


def stream_budget(device: torch.device, num_gpus: float) -> int:
    """Bytes for streams on a device whose models are loaded: on a GPU what its share leaves beside working memory."""
    if device.type == "cpu":
        return _ON_CPU
    total = torch.cuda.get_device_properties(device).total_memory
    share = total * (num_gpus if 0 < num_gpus < 1 else 1)
    return max(_LEAST, int(share) - torch.cuda.memory_reserved(device) - _WORKING)


class Admission:
    """A budget of bytes. A stream larger than all of it is let in when it is alone."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._taken = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self.active = 0

    async def enter(self, size: int) -> None:
        """Wait until there is room, first come first served. ``leave`` must follow once this has returned."""
        if not self._waiting and self._fits(size):
            self._take(size)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # let in at the moment it was cancelled
                self.leave(size)
            else:
                self._waiting.remove((size, turn))
                self._admit()
            raise

    def leave(self, size: int) -> None:
        """Give room back."""
        self._taken -= size
        self.active -= 1
        self._admit()

    def _fits(self, size: int) -> bool:
        return self.active == 0 or self._taken + size <= self._budget

    def _take(self, size: int) -> None:
        self._taken += size
        self.active += 1

    def _admit(self) -> None:
        while self._waiting and self._fits(self._waiting[0][0]):
            size, turn = self._waiting.popleft()
            self._take(size)
            turn.set_result(None)
