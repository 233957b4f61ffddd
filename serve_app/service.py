"""A request from its checked job to encoded audio, within its deadline. Knows neither HTTP nor Ray."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from deployments.errors import DeadlineError, StageError
from deployments.types import SAMPLE_RATE
from serve_app.audio_format import Tempo, change_speed, encode
from serve_app.audio_stream import Encoder
from serve_app.config import AppArgs, Variant
from serve_app.enrolment import NewVoice, checked
from serve_app.fetch import fetch
from serve_app.pipeline import Audio, Stages, Timings, clone, edit
from serve_app.pipeline import encode as encode_clip
from serve_app.requests import Job, Planner, Uploads, check_sources
from serve_app.schemas import SpeechRequest, StepAudio
from serve_app.streaming import Samples, Usage, stream
from serve_app.voice_file import Label
from serve_app.voices import Voices


class States(Protocol):
    """The state of each deployment by name."""

    async def get(self) -> dict[str, str]: ...


@dataclass(frozen=True)
class Result:
    """Encoded audio, its length in seconds, and how it came about."""

    data: bytes
    duration: float
    job: Job
    audio: Audio
    timings: Timings


@dataclass(frozen=True)
class Spoken:
    """A stream under way: its bytes, and what is complete once they are."""

    job: Job
    timings: Timings
    usage: Usage
    chunks: AsyncGenerator[bytes, None]


@dataclass(frozen=True)
class Service:
    """Everything the HTTP surface needs: what is deployed, the voices, the stages."""

    args: AppArgs
    variants: list[Variant]
    voices: Voices
    stages: Stages
    states: States

    async def speech(self, body: SpeechRequest, uploads: Uploads, patience_s: float | None = None) -> Result:
        """Plan, run and encode one request.

        Args:
            patience_s: a deadline of the client's own, if shorter than the server's, seconds.

        Raises: InvalidInputError, NotFoundError, OverloadedError, StageError; DeadlineError after the deadline.
        """
        async with self._deadline(patience_s):
            return await self._speech(body, uploads)

    async def stream(self, body: SpeechRequest, uploads: Uploads, patience_s: float | None = None) -> Spoken:
        """As ``speech``, but returns once the first bytes are there; the deadline is theirs."""
        timings, usage = Timings(), Usage()
        async with self._deadline(patience_s):
            job = await self._plan(body, uploads, timings)
            chunks = encoded(job, stream(self.stages, job, timings, usage), usage)
            first = await anext(chunks)
        return Spoken(job, timings, usage, self._rest(first, chunks))

    async def _rest(self, first: bytes, chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        """All bytes of a stream; a gap as long as the deadline ends it."""
        async with aclosing(chunks):
            yield first
            while True:
                async with self._deadline(None):
                    chunk = await anext(chunks, None)
                if chunk is None:
                    return
                yield chunk

    @asynccontextmanager
    async def _deadline(self, patience_s: float | None) -> AsyncGenerator[None, None]:
        seconds = self.args.limits.request_timeout_s
        by_client = patience_s is not None and patience_s < seconds
        try:
            async with asyncio.timeout(patience_s if by_client else seconds):
                yield
        except TimeoutError:
            raise DeadlineError("no result within the deadline; try again later", by_client) from None

    async def add_voice(self, new: NewVoice, patience_s: float | None = None) -> Label:
        """Encode and store a voice; one of the same name is replaced.

        Raises: InvalidInputError for what cannot be a voice, or if no more can be stored; else as ``speech``.
        """
        async with self._deadline(patience_s):
            voice = await asyncio.to_thread(checked, new, self.voices.free_name(new.name), self.args.limits)
            voice = replace(voice, reference=await self.stages.encoder.encode(voice.clip))
            await asyncio.to_thread(self.voices.put, voice)
            return voice.label

    async def _speech(self, body: SpeechRequest, uploads: Uploads) -> Result:
        timings = Timings()
        job = await self._plan(body, uploads, timings)
        audio = await run(self.stages, job, timings)
        if "empty" in audio.flaws:
            raise StageError("the language model gave no audio")
        data, duration = await asyncio.to_thread(_package, audio, job)
        return Result(data, duration, job, audio, timings)

    async def _plan(self, body: SpeechRequest, uploads: Uploads, timings: Timings) -> Job:
        check_sources(body, uploads, self.args.limits.allow_urls)
        uploads = await self._fetched(body.step_audio or StepAudio(), uploads)
        planner = Planner(self.args, self.variants, self.voices)
        job = await asyncio.to_thread(planner.plan, body, uploads)
        if job.voice is None or not job.voice.stale:
            return job
        reference = await encode_clip(self.stages, job.voice.clip, timings)
        await asyncio.to_thread(self.voices.refresh, job.voice, reference)
        return replace(job, voice=replace(job.voice, reference=reference))

    async def _fetched(self, options: StepAudio, uploads: Uploads) -> Uploads:
        """``uploads`` with what the request's URLs point to."""
        limits = self.args.limits
        max_bytes = int(limits.max_body_mb * 2**20)
        fetched = {
            name: await fetch(url, f"step_audio.{name}_url", max_bytes, limits.url_timeout_s)
            for name in ("prompt_audio", "input_audio")
            if (url := getattr(options, f"{name}_url"))
        }
        return replace(uploads, **fetched)


async def run(stages: Stages, job: Job, timings: Timings) -> Audio:
    """The pipeline of the job's mode."""
    if job.mode == "clone":
        assert job.voice is not None
        return await clone(stages, job.variant, job.voice, list(job.texts), job.draws, timings)
    return await edit(stages, job.variant, list(job.pieces), job.rounds, job.draws, timings)


async def encoded(job: Job, samples: Samples, usage: Usage) -> AsyncGenerator[bytes, None]:
    """Samples as bytes of the job's format, at its speed, as they come."""
    encoder, tempo = Encoder(job.format), Tempo(job.speed) if job.speed != 1.0 else None

    def write(chunk: np.ndarray) -> bytes:
        ready = chunk if tempo is None else tempo.write(chunk)
        usage.samples += len(ready)
        return encoder.write(ready)

    def close() -> bytes:
        rest = b"" if tempo is None else encoder.write(tempo.close())
        return rest + encoder.close()

    async with aclosing(samples):
        async for chunk in samples:
            if data := await asyncio.to_thread(write, chunk):
                yield data
    if data := await asyncio.to_thread(close):
        yield data


def _package(audio: Audio, job: Job) -> tuple[bytes, float]:
    samples = audio.samples if job.speed == 1.0 else change_speed(audio.samples, job.speed)
    return encode(samples, job.format), len(samples) / SAMPLE_RATE
