import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from deployments.vocoder.scheduler import Lane, Scheduler


class Bench:
    """A scheduler whose first job blocks the thread until ``go`` is set."""

    def __init__(self, most: int = 8, repeatable: bool = True) -> None:
        self.batches: list[list[Any]] = []
        self.go = threading.Event()
        self.started = threading.Event()
        self.scheduler = Scheduler({"work": Lane(self._work, lambda: most, repeatable)})

    def _work(self, items: list[Any]) -> list[Any]:
        self.batches.append(items)
        self.started.set()
        assert self.go.wait(5)
        if "bad" in items:
            raise ValueError("bad item")
        return [item * 2 for item in items]

    async def occupied(self) -> "asyncio.Task[Any]":
        task = asyncio.create_task(self.scheduler.run("work", "first", 0))
        await asyncio.to_thread(self.started.wait, 5)
        return task


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.go.set()
    made.scheduler.close()


def ask(bench: Bench, item: Any, deadline: float, kind: Any = "work") -> "asyncio.Task[Any]":
    return asyncio.create_task(bench.scheduler.run(kind, item, deadline))


async def test_what_waits_together_runs_together_most_urgent_first(bench: Bench) -> None:
    first = await bench.occupied()
    tasks = [ask(bench, item, deadline) for item, deadline in (("c", 3), ("a", 1), ("b", 2))]
    await asyncio.sleep(0.01)
    bench.go.set()
    results = await asyncio.gather(first, *tasks)
    assert [done.value for done in results] == ["firstfirst", "cc", "aa", "bb"]
    assert bench.batches == [["first"], ["a", "b", "c"]]
    assert results[1].queue_s > 0 and results[1].compute_s >= 0


async def test_kinds_are_kept_apart(bench: Bench) -> None:
    await bench.occupied()
    tasks = [ask(bench, "x", 2, ("work", 1)), ask(bench, "y", 1, ("work", 2)), ask(bench, "z", 3, ("work", 1))]
    await asyncio.sleep(0.01)
    bench.go.set()
    await asyncio.gather(*tasks)
    assert bench.batches[1:] == [["y"], ["x", "z"]]


async def test_a_cancelled_job_is_not_run(bench: Bench) -> None:
    first = await bench.occupied()
    gone, kept = ask(bench, "gone", 1), ask(bench, "kept", 2)
    await asyncio.sleep(0.01)
    gone.cancel()
    await asyncio.sleep(0.01)
    bench.go.set()
    await asyncio.gather(first, kept)
    assert bench.batches[1:] == [["kept"]]


@pytest.mark.parametrize(("repeatable", "spared"), [(True, ["goodgood", "ValueError"]), (False, ["ValueError"] * 2)])
async def test_a_bad_job_spoils_its_batch_only_where_jobs_cannot_be_repeated(
    repeatable: bool, spared: list[str]
) -> None:
    bench = Bench(repeatable=repeatable)
    first = await bench.occupied()
    tasks = [ask(bench, "good", 1), ask(bench, "bad", 2)]
    await asyncio.sleep(0.01)
    bench.go.set()
    await first
    results = await asyncio.gather(*tasks, return_exceptions=True)
    named = [type(r).__name__ if isinstance(r, Exception) else r.value for r in results]  # type: ignore[union-attr]
    assert named == spared
    bench.scheduler.close()


async def test_a_stuck_batch_shows(bench: Bench) -> None:
    assert bench.scheduler.stalled_s == 0
    await bench.occupied()
    time.sleep(0.02)
    assert bench.scheduler.stalled_s >= 0.02
