"""A streamed synthesis from the codes' arrival to the samples: what runs on the event loop.

Codes are taken from their source as they come; whenever there are enough for a chunk, it is queued for the models.
The samples of a stream are made at most ``ahead_s`` seconds before they can have been played: nothing between here
and the client pushes back, so a stream that ran ahead would pile up in memory.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

import numpy as np

from deployments.errors import StageError
from deployments.types import SAMPLE_RATE, Reference
from deployments.vocoder.chunks import Chunk, Chunks
from deployments.vocoder.engine import Engine
from deployments.vocoder.stream import Stream


class Intake:
    """Drains a source of codes into chunks, in a task of its own."""

    def __init__(self, source: AsyncIterator[Any], chunks: Chunks) -> None:
        self.rest: list[Any] = []
        self._chunks = chunks
        self._changed = asyncio.Event()
        self._task = asyncio.create_task(self._drain(source))

    async def _drain(self, source: AsyncIterator[Any]) -> None:
        try:
            async for item in source:
                if isinstance(item, np.ndarray):
                    self._chunks.feed(item)
                else:
                    self.rest.append(item)
                self._changed.set()
            self._chunks.end()
        finally:
            self._changed.set()

    async def opening(self) -> np.ndarray:
        """The first group of codes. Raises StageError if the source ends without any."""
        while (codes := self._chunks.opening()) is None:
            await self._more()
        return codes

    async def next(self, busy: bool) -> Chunk | None:
        """The next chunk; None after the last one. Raises what the source raised."""
        while (chunk := self._chunks.next(busy)) is None:
            if self._chunks.exhausted:
                return None
            await self._more()
        return chunk

    async def stop(self) -> None:
        """Leave the source."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _more(self) -> None:
        """Wait for codes, the end, or the source's failure."""
        if self._task.done():
            self._task.result()
            raise StageError("the language model gave no audio codes")
        self._changed.clear()
        await self._changed.wait()
        if self._task.done():
            self._task.result()


async def speak(
    engine: Engine, source: AsyncIterator[Any], reference: Reference, seed: int, ahead_s: float
) -> AsyncGenerator[Any, None]:
    """Samples of a stream, float32 (n,) at 24 kHz, chunk by chunk.

    source: arrays of codes (n,), 0..5119, of any lengths; what else it yields is passed on after the samples.
    The stream's state is dropped when this ends, fails, or is closed.
    """
    chunks = engine.chunks()
    size = engine.stream_bytes(reference)
    intake = Intake(source, chunks)
    try:
        opening = await intake.opening()
        await engine.admission.enter(size)
        try:
            stream = await engine.open(reference, seed, opening)
            async with aclosing(_samples(engine, intake, stream, ahead_s)) as parts:
                del stream
                async for samples in parts:
                    yield samples
        finally:
            engine.admission.leave(size)
        for item in intake.rest:
            yield item
    finally:
        await intake.stop()


async def _samples(engine: Engine, intake: Intake, stream: Stream, ahead_s: float) -> AsyncGenerator[np.ndarray, None]:
    started, made = 0.0, 0.0
    while chunk := await intake.next(engine.busy):
        now = time.monotonic()
        if made:
            await asyncio.sleep(max(0.0, started + made - ahead_s - now))
        samples = await engine.advance(stream, chunk, started + made if made else now)
        started = started or time.monotonic()
        made += len(samples) / SAMPLE_RATE
        yield samples
