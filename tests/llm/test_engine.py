import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence

import numpy as np
import pytest

from deployments.errors import OverloadedError, StageError
from deployments.llm.engine import MAX_FAILED_TURNS, Engine
from deployments.llm.jobs import Job, Piece
from deployments.llm.runner import Result, Runner
from deployments.types import Sampling


class Tokens:
    def __init__(self, values: list[int]) -> None:
        self._values = values

    def tokens(self) -> list[int]:
        return self._values


class CountingRunner(Runner):
    """Draws prompt[0] * 1000 + step: any mix-up of requests shows. prompt[0] 666 fails; prompt[1] is when it stops."""

    def __init__(self, slots: int = 4, max_length: int = 1000) -> None:
        self.slots, self.max_length = slots, max_length
        self.rows: dict[int, tuple[int, int, int]] = {}
        self.broken = False

    def begin(self, slot: int, sampling: Sampling, prompt: Sequence[int]) -> None:
        self.rows[slot] = (prompt[0], prompt[1], 0)

    def prefill(self, slot: int, ids: Sequence[int], start: int) -> None:
        if self.broken or 666 in ids:
            raise RuntimeError("broken")

    def first(self, slot: int) -> Result:
        return self.decode([slot])

    def decode(self, active: Sequence[int]) -> Result:
        if self.broken:
            raise RuntimeError("broken")
        time.sleep(2e-4)
        out = []
        for slot in active:
            name, stop, step = self.rows[slot]
            out.append(-1 if step == stop else name * 1000 + step)
            self.rows[slot] = (name, stop, step + 1)
        return Tokens(out)


@pytest.fixture
def make_engine() -> Iterator[Callable[..., Engine]]:
    engines: list[Engine] = []

    def make(runner: Runner, **options: object) -> Engine:
        engines.append(Engine(runner, stops=(-1,), **{"chunk": 8, "handouts": (1,), **options}))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


def job(name: int, length: int, stop: int = 10**6, budget: int = 20) -> Job:
    return Job([name, stop, *range(length)], budget, Sampling(seed=name))


async def gather(pieces: AsyncIterator[Piece]) -> tuple[list[int], str]:
    all_pieces = [piece async for piece in pieces]
    assert all(piece.finish_reason is None for piece in all_pieces[:-1])
    return np.concatenate([piece.ids for piece in all_pieces]).tolist(), all_pieces[-1].finish_reason or ""


@pytest.mark.parametrize("lookahead", [0, 1])
async def test_500_requests_with_cancellations_and_failures_never_mix(make_engine: Callable, lookahead: int):
    engine = make_engine(CountingRunner(), max_waiting=500, lookahead=lookahead)
    chance = random.Random(1)

    async def one(name: int) -> None:
        kind = chance.choice(["whole", "stop", "cancel", "fail"])
        budget, stop = chance.randint(1, 40), chance.randint(1, 40) if kind == "stop" else 10**6
        length = chance.randint(1, 30)
        if kind == "fail":
            with pytest.raises(StageError):
                await gather(engine.generate(Job([name, stop, 666], budget, Sampling(0))))
        elif kind == "cancel":
            task = asyncio.create_task(gather(engine.generate(job(name, length, budget=900))))
            await asyncio.sleep(chance.random() * 0.02)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        else:
            ids, reason = await gather(engine.generate(job(name, length, stop, budget)))
            assert ids == [name * 1000 + step for step in range(min(stop, budget))]
            assert reason == ("stop" if stop < budget else "length")

    await asyncio.gather(*(one(name) for name in range(1000, 1500)))
    assert engine.load == (0, 0, 0)
    assert sorted(engine._scheduler._free) == [0, 1, 2, 3]
    assert not engine._requests


async def test_groups_are_handed_out_as_the_vocoder_needs_them(make_engine: Callable):
    engine = make_engine(CountingRunner(), handouts=(1, 2, 3))
    sizes = [len(piece.ids) async for piece in engine.generate(job(1, 3, budget=53))]
    assert sizes == [5, 10, 15, 15, 8]


async def test_leaving_a_stream_frees_its_slot(make_engine: Callable):
    engine = make_engine(CountingRunner(slots=1))
    stream = engine.generate(job(1, 3, budget=900))
    await anext(stream)
    await stream.aclose()
    assert engine.load == (0, 0, 0)
    assert (await gather(engine.generate(job(2, 3, budget=2))))[0] == [2000, 2001]


async def test_a_full_queue_refuses(make_engine: Callable):
    engine = make_engine(CountingRunner(slots=1), max_waiting=0)
    stream = engine.generate(job(1, 3, budget=900))
    await anext(stream)
    with pytest.raises(OverloadedError):
        await gather(engine.generate(job(2, 3)))
    await stream.aclose()


async def test_a_failed_step_fails_its_requests_only(make_engine: Callable):
    runner = CountingRunner()
    engine = make_engine(runner)
    stream = engine.generate(job(1, 3, budget=900))
    await anext(stream)
    runner.broken = True
    with pytest.raises(StageError, match="RuntimeError"):
        await gather(stream)
    runner.broken = False
    assert (await gather(engine.generate(job(2, 3, budget=2))))[0] == [2000, 2001]
    engine.check()


async def test_an_engine_that_keeps_failing_is_unhealthy(make_engine: Callable):
    runner = CountingRunner()
    runner.broken = True
    engine = make_engine(runner)
    for name in range(MAX_FAILED_TURNS):
        with pytest.raises(StageError):
            await gather(engine.generate(job(name, 3)))
    with pytest.raises(StageError, match="in a row"):
        engine.check()


async def test_closing_fails_what_is_under_way(make_engine: Callable):
    engine = make_engine(CountingRunner())
    stream = engine.generate(job(1, 3, budget=900))
    await anext(stream)
    await asyncio.to_thread(engine.close)
    with pytest.raises(StageError, match="shutting down"):
        await gather(stream)
    with pytest.raises(StageError):
        engine.check()


def test_a_job_can_be_waited_for_without_an_event_loop(make_engine: Callable):
    pieces = make_engine(CountingRunner()).complete(job(1, 3, budget=7))
    assert [len(piece.ids) for piece in pieces] == [5, 2]


@pytest.mark.parametrize("neighbours", [1, 3, 8])
async def test_neighbours_that_join_and_leave_change_nothing(make_engine: Callable, runner: Runner, neighbours: int):
    engine = make_engine(runner, chunk=32)
    chance = random.Random(neighbours)

    def request(seed: int, temperature: float) -> Job:
        chance = random.Random(seed)
        prompt = [chance.randrange(5952) for _ in range(chance.randint(20, 90))]
        return Job(prompt, 60, Sampling(seed, temperature))

    jobs = [request(seed, temperature) for seed, temperature in ((1, 0.0), (2, 0.7))]
    alone = [await gather(engine.generate(one)) for one in jobs]

    async def neighbour(seed: int) -> None:
        await asyncio.sleep(chance.random() * 0.05)
        stream = engine.generate(request(seed, 0.7))
        for _ in range(chance.randint(1, 9)):
            await anext(stream)
        await stream.aclose()

    crowd = [neighbour(seed) for seed in range(100, 100 + neighbours)]
    together = await asyncio.gather(*(gather(engine.generate(one)) for one in jobs), *crowd)
    assert together[:2] == alone


async def test_an_observer_sees_work_and_then_none(make_engine: Callable):
    seen: list[tuple[int, tuple[int, int, int]]] = []
    engine = make_engine(CountingRunner(), observe=lambda engine: seen.append((engine.stats.tokens, engine.load)))
    await gather(engine.generate(job(1, 3, budget=12)))
    while not seen or seen[-1][1] != (0, 0, 0):
        await asyncio.sleep(0.001)
    assert seen[-1][0] == 12
    assert engine.stats.requests == 1
    assert engine.stats.prefill_tokens == 5
    assert engine.stats.step_s > 0
