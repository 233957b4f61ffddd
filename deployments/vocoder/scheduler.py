"""One worker thread that runs all of a replica's work, most urgent first, in batches.

While a batch runs, work piles up; the next batch takes the job with the earliest deadline and what else is of its
kind. No timer holds anything back: alone, a job starts at once, and under load batches fill by themselves.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

from deployments.errors import StageError

logger = logging.getLogger("ray.serve")


@dataclass(frozen=True)
class Lane:
    """What jobs of a kind are given to: a function from items to results in the same order.

    most: how many at a time, asked before each batch. repeatable: after a failed batch its items may be tried alone.
    """

    work: Callable[[list[Any]], list[Any]]
    most: Callable[[], int]
    repeatable: bool = True


@dataclass(frozen=True)
class Done:
    """A job's result, the seconds it waited and the seconds its batch took."""

    value: Any
    queue_s: float
    compute_s: float


@dataclass(eq=False)
class _Job:
    kind: Hashable
    item: Any
    deadline: float
    asked: float
    future: "asyncio.Future[Done]"
    loop: asyncio.AbstractEventLoop
    dropped: bool = False


class Scheduler:
    """Takes jobs from event loops and runs them on its thread.

    Args:
        lanes: by name; a job's kind is the name, or a tuple that starts with it and keeps unlike jobs apart.
    """

    def __init__(self, lanes: Mapping[str, Lane]) -> None:
        self._lanes = lanes
        self._jobs: list[_Job] = []
        self._changed = threading.Condition()
        self._closed = False
        self._running_since: float | None = None
        self._thread = threading.Thread(target=self._loop, name="vocoder", daemon=True)
        self._thread.start()

    async def run(self, kind: Hashable, item: Any, deadline: float) -> Done:
        """The result of one job.

        A caller that is cancelled takes its job out of the queue; a batch that runs already runs to its end.
        ``deadline`` is in time.monotonic's seconds and only orders jobs. Raises what the lane's work raised.
        """
        loop = asyncio.get_running_loop()
        job = _Job(kind, item, deadline, time.monotonic(), loop.create_future(), loop)
        with self._changed:
            if self._closed:
                raise StageError("the vocoder is shutting down")
            self._jobs.append(job)
            self._changed.notify()
        try:
            return await job.future
        finally:
            job.dropped = True

    def close(self) -> None:
        """Stop after the batch that runs now."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    @property
    def stalled_s(self) -> float:
        """Seconds since the batch that runs now was started; infinite if the thread is gone."""
        if not self._thread.is_alive():
            return float("inf")
        since = self._running_since
        return 0.0 if since is None else time.monotonic() - since

    def _loop(self) -> None:
        while self._turn():
            pass

    def _turn(self) -> bool:
        """Run one batch; False when closed. What it worked on is let go before the next one is waited for."""
        group = self._take()
        if not group:
            return False
        self._running_since = time.monotonic()
        self._work(group)
        self._running_since = None
        return True

    def _take(self) -> list[_Job]:
        """The next batch; empty when closed."""
        with self._changed:
            while True:
                self._jobs = [job for job in self._jobs if not job.dropped]
                if self._closed or self._jobs:
                    break
                self._changed.wait()
            if self._closed:
                return []
            urgent = sorted(self._jobs, key=lambda job: job.deadline)
            group = [job for job in urgent if job.kind == urgent[0].kind][: self._lane(urgent[0]).most()]
            self._jobs = [job for job in self._jobs if job not in group]
            return group

    def _work(self, group: list[_Job]) -> None:
        """Run a batch. If it fails, its jobs are tried alone where they may be: only one caller should suffer."""
        started, lane = time.monotonic(), self._lane(group[0])
        try:
            values = lane.work([job.item for job in group])
        except Exception as error:
            logger.exception("a batch of %d %s failed", len(group), group[0].kind)
            alone = len(group) > 1 and lane.repeatable
            for job in group:
                self._work([job]) if alone else self._deliver(job, error)
            return
        taken = time.monotonic() - started
        for job, value in zip(group, values, strict=True):
            self._deliver(job, Done(value, started - job.asked, taken))

    def _lane(self, job: _Job) -> Lane:
        return self._lanes[job.kind[0] if isinstance(job.kind, tuple) else str(job.kind)]

    @staticmethod
    def _deliver(job: _Job, outcome: "Done | Exception") -> None:
        def settle() -> None:
            if job.future.done():
                return
            if isinstance(outcome, Done):
                job.future.set_result(outcome)
            else:
                job.future.set_exception(outcome)

        try:
            job.loop.call_soon_threadsafe(settle)
        except RuntimeError:  # the caller's loop is closed: nobody waits any more
            logger.debug("a result came after its caller's event loop was closed")
