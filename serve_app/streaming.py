"""The pipeline as streams: samples while the language model still writes.

The vocoder's replica iterates the language model itself; here its samples are only joined. The next segment of a
long text begins once the one before it speaks, and is held back by a short queue until its turn.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

import numpy as np

from deployments.types import (
    GROUP_SECONDS,
    GROUP_SIZE,
    SAMPLE_RATE,
    ClonePrompt,
    EditPrompt,
    Generation,
    Prompt,
    Reference,
    Sampling,
)
from serve_app.pipeline import PAUSE_S, Stages, Timings, edit_rounds, encode, reseeded, speaker_name
from serve_app.requests import Job

Samples = AsyncGenerator[np.ndarray, None]
Parts = AsyncGenerator[np.ndarray | Generation, None]
_HELD_CHUNKS = 8


@dataclass
class Usage:
    """Tokens a stream has taken so far, and samples it has given."""

    prompt_tokens: int = 0
    audio_tokens: int = 0
    samples: int = 0

    def add(self, prompt_tokens: int, audio_tokens: int) -> None:
        self.prompt_tokens += prompt_tokens
        self.audio_tokens += audio_tokens


async def stream(stages: Stages, job: Job, timings: Timings, usage: Usage) -> Samples:
    """Samples (n,) of a job at 24 kHz as they come; ``timings`` and ``usage`` are complete at the end."""
    clip, sampling = job.clip, job.sampling
    if job.mode != "clone" and job.rounds > 1:
        early = job.rounds - 1
        clip, audio = await edit_rounds(stages, job.variant, clip, job.instruction, early, sampling, timings)
        usage.add(audio.prompt_tokens, audio.audio_tokens)
        sampling = reseeded(sampling, early)
    reference = job.reference or await encode(stages, clip, timings)
    spoken = _joined(stages, job.variant, _prompts(job, reference), sampling, reference, timings, usage)
    async with aclosing(spoken) as samples:
        async for chunk in samples:
            yield chunk


def _prompts(job: Job, reference: Reference) -> list[Prompt]:
    if job.mode != "clone":
        return [EditPrompt(job.instruction, reference.codes)]
    speaker = speaker_name(job.transcript, job.clip)
    return [ClonePrompt(text, job.transcript, reference.codes, speaker) for text in job.texts]


async def _joined(
    stages: Stages,
    variant: str,
    prompts: list[Prompt],
    sampling: Sampling,
    reference: Reference,
    timings: Timings,
    usage: Usage,
) -> Samples:
    """One segment after the other, a pause between them."""

    def segment(number: int) -> "Ahead":
        draws = reseeded(sampling, number)
        return Ahead(stages.vocoder.stream(stages.llm[variant], prompts[number], draws, reference))

    pause = np.zeros(round(PAUSE_S * SAMPLE_RATE), np.float32)
    current, following = segment(0), None
    try:
        for number in range(len(prompts)):
            if number:
                yield pause
            made = 0
            while (part := await current.next()) is not None:
                if isinstance(part, Generation):
                    _account(part, made, timings, usage)
                    continue
                if following is None and number + 1 < len(prompts):
                    following = segment(number + 1)
                made += len(part)
                yield part
            if number + 1 < len(prompts):
                await current.close()
                current, following = following or segment(number + 1), None
    finally:
        await current.close()
        if following is not None:
            await following.close()


def _account(end: Generation, samples: int, timings: Timings, usage: Usage) -> None:
    usage.add(end.prompt_tokens, round(samples / SAMPLE_RATE / GROUP_SECONDS) * GROUP_SIZE)
    timings.llm += end.compute_s
    timings.queue += end.queue_s


class Ahead:
    """Takes a stream's parts a few ahead of their reader, in a task of its own."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._queue: asyncio.Queue[np.ndarray | Generation | BaseException | None] = asyncio.Queue(_HELD_CHUNKS)
        self._task = asyncio.create_task(self._fill())

    async def _fill(self) -> None:
        try:
            async with aclosing(self._parts) as parts:
                async for part in parts:
                    await self._queue.put(part)
        except Exception as error:
            await self._queue.put(error)
        else:
            await self._queue.put(None)

    async def next(self) -> np.ndarray | Generation | None:
        """The next part; None at the end. Raises what the stream raised."""
        part = await self._queue.get()
        if isinstance(part, BaseException):
            raise part
        return part

    async def close(self) -> None:
        """Leave the stream, wherever it is."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
