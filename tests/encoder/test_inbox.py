"""The inbox: whatever waits while the worker is busy becomes one batch, within the budget."""

import asyncio
import threading

import pytest

from deployments.encoder.encoder import Outcome
from deployments.encoder.inbox import Inbox
from deployments.errors import StageError
from deployments.types import Clip
from tests.encoder.conftest import noise


class Worker:
    """Names every clip by its rate, once it is let go."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.free = threading.Event()

    def __call__(self, clips: list[Clip]) -> list[Outcome]:
        self.batches.append(len(clips))
        assert self.free.wait(5)
        if any(clip.sample_rate == 9999 for clip in clips):
            raise MemoryError
        return [StageError(str(clip.sample_rate)) for clip in clips]


async def test_clips_that_come_while_the_worker_is_busy_share_a_batch_and_keep_their_order() -> None:
    worker = Worker()
    inbox = Inbox(worker, 100)
    tasks = [asyncio.create_task(inbox.encode([noise(1, rate)])) for rate in range(8000, 8010)]
    await asyncio.sleep(0.05)
    worker.free.set()
    outcomes = [outcome for outcomes in await asyncio.gather(*tasks) for outcome in outcomes]
    assert [str(outcome) for outcome in outcomes] == [str(rate) for rate in range(8000, 8010)]
    assert sum(worker.batches) == 10 and len(worker.batches) <= 2


async def test_a_batch_holds_no_more_audio_than_the_budget_and_a_long_clip_goes_alone() -> None:
    worker = Worker()
    worker.free.set()
    inbox = Inbox(worker, 4)
    await inbox.encode([noise(1, 8000)] * 6 + [noise(9, 8000)] + [noise(2, 8000)] * 2)
    assert worker.batches == [4, 2, 1, 2]


async def test_a_caller_that_goes_away_leaves_the_others_their_results() -> None:
    worker = Worker()
    inbox = Inbox(worker, 100)
    tasks = [asyncio.create_task(inbox.encode([noise(1, 8000)])) for _ in range(3)]
    await asyncio.sleep(0.02)
    tasks[1].cancel()
    worker.free.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [list, asyncio.CancelledError, list]


async def test_a_worker_that_raises_fails_its_batch_and_takes_the_next() -> None:
    worker = Worker()
    worker.free.set()
    inbox = Inbox(worker, 100)
    with pytest.raises(MemoryError):
        await inbox.encode([noise(1, 9999)])
    assert len(await inbox.encode([noise(1, 8000)])) == 1
