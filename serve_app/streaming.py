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
)
from serve_app.pipeline import PAUSE_S, Draws, Stages, Timings, edit_rounds, encode, speaker_name
from serve_app.quality import flaws, ran_away
from serve_app.requests import Job

Samples = AsyncGenerator[np.ndarray, None]
Parts = AsyncGenerator[np.ndarray | Generation, None]
_HELD_CHUNKS = 8


@dataclass
class Usage:
    """Tokens a stream has taken so far, samples it has given, and what is wrong with them."""

    prompt_tokens: int = 0
    audio_tokens: int = 0
    samples: int = 0
    flaws: frozenset[str] = frozenset()

    def add(self, prompt_tokens: int, audio_tokens: int) -> None:
        self.prompt_tokens += prompt_tokens
        self.audio_tokens += audio_tokens


async def stream(stages: Stages, job: Job, timings: Timings, usage: Usage) -> Samples:
    """Samples (n,) of a job at 24 kHz as they come; ``timings`` and ``usage`` are complete at the end."""
    if job.mode == "clone":
        assert job.voice is not None
        transcript, clip = job.voice.transcript, job.voice.clip
        reference = job.voice.reference or await encode(stages, clip, timings)
        speaker = speaker_name(transcript, clip)
        turns: list[Turn] = [
            Turn(ClonePrompt(text, transcript.strip(), reference.codes, speaker), job.draws.numbered(number), reference)
            for number, text in enumerate(job.texts)
        ]
        pause_s = PAUSE_S
    else:
        turns = [await _last_round(stages, job, number, timings, usage) for number in range(len(job.pieces))]
        pause_s = 0.0
    async with aclosing(_joined(stages, job.variant, turns, pause_s, timings, usage)) as samples:
        async for chunk in samples:
            yield chunk


@dataclass(frozen=True)
class Turn:
    """One segment to speak."""

    prompt: Prompt
    draws: Draws
    reference: Reference


async def _last_round(stages: Stages, job: Job, number: int, timings: Timings, usage: Usage) -> Turn:
    """All rounds of an edited piece but the last, which is left to be streamed."""
    piece, draws = job.pieces[number], job.draws.numbered(number * job.rounds)
    clip = piece.clip
    if job.rounds > 1:
        clip, audio = await edit_rounds(stages, job.variant, piece, job.rounds - 1, draws, timings)
        usage.add(audio.prompt_tokens, audio.audio_tokens)
    reference = await encode(stages, clip, timings)
    return Turn(EditPrompt(piece.instruction, reference.codes), draws.numbered(job.rounds - 1), reference)


async def _joined(
    stages: Stages, variant: str, turns: list[Turn], pause_s: float, timings: Timings, usage: Usage
) -> Samples:
    """One segment after the other, a pause between them."""

    def segment(number: int) -> "Ahead":
        turn = turns[number]
        return Ahead(stages.vocoder.stream(stages.llm[variant], turn.prompt, turn.draws.sampling, turn.reference))

    pause = np.zeros(round(pause_s * SAMPLE_RATE), np.float32)
    current, following = segment(0), None
    try:
        for number in range(len(turns)):
            if number and len(pause):
                yield pause
            made = 0
            while (part := await current.next()) is not None:
                if isinstance(part, Generation):
                    _account(part, made, timings, usage)
                    usage.flaws |= ran_away(part, turns[number].draws.sampling)
                    continue
                if following is None and number + 1 < len(turns):
                    following = segment(number + 1)
                made += len(part)
                usage.flaws |= flaws(part) - {"silent"}  # a pause may fill a chunk
                yield part
            if number + 1 < len(turns):
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
