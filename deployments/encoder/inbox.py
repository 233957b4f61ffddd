"""Batches as large as the load makes them.

Serve cuts a batch after a fixed wait, whether or not the worker is free: a wait that suits an idle replica cuts
batches of one under load, and one that suits load delays every lone request. So Serve's wait is short here, and what
it cuts while the worker is busy gathers in the inbox, from which the worker takes as much as one batch may hold.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from deployments.encoder.encoder import Outcome
from deployments.types import Clip


def audio_seconds(clips: list[Clip]) -> int:
    """A batch's size. A clip alone counts as 1, so that one longer than any budget still forms a batch."""
    return 1 if len(clips) == 1 else sum(math.ceil(clip.duration) for clip in clips)


class Inbox:
    """Clips that wait for the worker, and the worker: one thread.

    Args:
        run: encodes a batch; gives as many outcomes as it takes clips.
        batch_seconds: the most audio in a batch.
    """

    def __init__(self, run: Callable[[list[Clip]], list[Outcome]], batch_seconds: int) -> None:
        self.run, self.batch_seconds = run, batch_seconds
        self.waiting: deque[tuple[Clip, asyncio.Future[Outcome]]] = deque()
        self.worker = ThreadPoolExecutor(1, thread_name_prefix="encoder")
        self.draining: asyncio.Task[None] | None = None

    async def encode(self, clips: list[Clip]) -> list[Outcome]:
        """Outcomes of these clips, in order, perhaps computed together with others."""
        loop = asyncio.get_running_loop()
        futures = [loop.create_future() for _ in clips]
        self.waiting.extend(zip(clips, futures, strict=True))
        if self.draining is None or self.draining.done():
            self.draining = loop.create_task(self._drain())
        return list(await asyncio.gather(*futures))

    async def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        while self.waiting:
            batch = [self.waiting.popleft() for _ in range(self._batch_length())]
            clips = [clip for clip, _ in batch]
            try:
                outcomes = await loop.run_in_executor(self.worker, self.run, clips)
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), outcome in zip(batch, outcomes, strict=True):
                if not future.done():
                    future.set_result(outcome)

    def _batch_length(self) -> int:
        """How many of the waiting clips fit one batch: at least one."""
        length = 1
        while length < len(self.waiting):
            clips = [clip for clip, _ in islice(self.waiting, length + 1)]
            if audio_seconds(clips) > self.batch_seconds:
                break
            length += 1
        return length
