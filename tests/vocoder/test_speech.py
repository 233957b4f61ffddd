import asyncio
import gc
import time
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import replace

import numpy as np
import pytest
import torch

from deployments.errors import StageError
from deployments.types import Reference
from deployments.vocoder.chunks import Chunks
from deployments.vocoder.engine import Engine, Limits
from deployments.vocoder.model import Synthesizer
from deployments.vocoder.speech import speak
from deployments.vocoder.stream import Stream


@pytest.fixture(scope="module")
def engine(synthesizer: Synthesizer) -> Iterator[Engine]:
    made = Engine(synthesizer, Limits())
    yield made
    made.scheduler.close()


@pytest.fixture(scope="module")
def codes(expected: dict[str, torch.Tensor]) -> np.ndarray:
    return np.tile(expected["clone.codes"].numpy().astype(np.int32), 2)[:115]


@pytest.fixture(scope="module")
def short(reference: Reference) -> Reference:
    return replace(reference, vq02=reference.vq02[:16], vq06=reference.vq06[:24], mel=reference.mel[:48])


async def arriving(codes: np.ndarray, size: int = 5, pause: float = 0.0) -> AsyncIterator[np.ndarray]:
    for start in range(0, len(codes), size):
        await asyncio.sleep(pause)
        yield codes[start : start + size]


async def test_streamed_samples_are_those_of_the_chunks(
    engine: Engine, synthesizer: Synthesizer, codes: np.ndarray, short: Reference
) -> None:
    parts = [part async for part in speak(engine, arriving(codes), short, 5, 20)]
    chunks = Chunks()
    chunks.feed(codes)
    chunks.end()
    stream = synthesizer.stream(short, 5)
    synthesizer.open([stream], [codes[:5]])
    for part, chunk in zip(parts, iter(chunks.next, None), strict=True):
        assert part.dtype == np.float32
        np.testing.assert_array_equal(part, synthesizer.advance([stream], [chunk])[0])
    assert sum(map(len, parts)) == 2880 * len(codes) // 5
    assert engine.admission.active == 0


async def test_first_samples_come_before_the_last_codes(engine: Engine, codes: np.ndarray, short: Reference) -> None:
    given = 0

    async def slowly() -> AsyncIterator[np.ndarray]:
        nonlocal given
        async for group in arriving(codes, pause=0.02):
            given += len(group)
            yield group

    async with aclosing(speak(engine, slowly(), short, 5, 20)) as parts:
        await anext(parts)
        assert 30 <= given < len(codes)


async def test_many_streams_at_once_equal_single_ones(engine: Engine, codes: np.ndarray, short: Reference) -> None:
    async def whole(count: int, seed: int) -> np.ndarray:
        parts = [part async for part in speak(engine, arriving(codes[:count], 10), short, seed, 20)]
        return np.concatenate(parts)

    sizes = [(115, 1), (60, 2), (40, 3), (7, 4)]
    alone = [await whole(*size) for size in sizes]
    together = await asyncio.gather(*(whole(*size) for size in sizes))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


async def test_what_else_the_source_yields_comes_last(engine: Engine, codes: np.ndarray, short: Reference) -> None:
    async def with_summary() -> AsyncIterator[object]:
        async for group in arriving(codes[:35]):
            yield group
        yield "summary"

    parts = [part async for part in speak(engine, with_summary(), short, 5, 20)]
    assert parts[-1] == "summary" and all(isinstance(part, np.ndarray) for part in parts[:-1])


async def test_leaving_frees_the_stream_at_once(
    engine: Engine, codes: np.ndarray, short: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[weakref.ref[Stream]] = []
    create = Stream.create

    def remembered(*arguments: object) -> Stream:
        stream = create(*arguments)  # type: ignore[arg-type]
        made.append(weakref.ref(stream))
        return stream

    monkeypatch.setattr(Stream, "create", remembered)
    closed = 0

    async def endless() -> AsyncIterator[np.ndarray]:
        nonlocal closed
        try:
            while True:
                async for group in arriving(codes):
                    yield group
        finally:
            closed += 1

    gc.disable()
    for _ in range(10):
        async with aclosing(speak(engine, endless(), short, 5, 20)) as parts:
            await anext(parts)
    await asyncio.sleep(0.05)
    assert len(made) == 10 and not [stream for stream in made if stream()]
    gc.enable()
    assert closed == 10
    assert engine.admission.active == 0


async def test_a_cancelled_consumer_frees_the_stream(engine: Engine, codes: np.ndarray, short: Reference) -> None:
    async def consume() -> None:
        async for _ in speak(engine, arriving(codes, pause=0.05), short, 5, 20):
            pass

    task = asyncio.create_task(consume())
    await asyncio.sleep(0.4)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await asyncio.sleep(0.05)
    assert engine.admission.active == 0


async def test_samples_run_ahead_of_their_playing_by_so_much_only(
    engine: Engine, codes: np.ndarray, short: Reference
) -> None:
    started = time.monotonic()
    lead = []
    made = 0.0
    async for part in speak(engine, arriving(codes), short, 5, 0.5):
        made += len(part) / 24_000
        lead.append(made - (time.monotonic() - started))
    assert max(lead[:-1]) < 0.5 + 1.92
    assert time.monotonic() - started > made - 0.5 - 1.92


async def test_a_failing_source_fails_the_stream_after_what_was_said(
    engine: Engine, codes: np.ndarray, short: Reference
) -> None:
    async def failing() -> AsyncIterator[np.ndarray]:
        async for group in arriving(codes[:40]):
            yield group
        await asyncio.sleep(0.2)
        raise StageError("the language model died")

    parts = []
    with pytest.raises(StageError, match="died"):
        async for part in speak(engine, failing(), short, 5, 20):
            parts.append(part)
    assert len(parts) == 1
    assert engine.admission.active == 0


async def test_a_source_without_codes_is_refused(engine: Engine, short: Reference) -> None:
    with pytest.raises(StageError, match="no audio codes"):
        async for _ in speak(engine, arriving(np.zeros(0, np.int32)), short, 5, 20):
            pass
