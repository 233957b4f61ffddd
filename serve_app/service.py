"""A request from its checked job to encoded audio, within its deadline. Knows neither HTTP nor Ray."""

import asyncio
from dataclasses import dataclass, replace
from typing import Protocol

from deployments.errors import DeadlineError
from deployments.types import SAMPLE_RATE
from serve_app.audio_format import change_speed, encode
from serve_app.config import AppArgs, Variant
from serve_app.fetch import fetch
from serve_app.pipeline import Audio, Stages, Timings, clone, edit
from serve_app.requests import Job, Planner, Uploads, check_sources
from serve_app.schemas import SpeechRequest, StepAudio
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
        seconds = self.args.limits.request_timeout_s
        by_client = patience_s is not None and patience_s < seconds
        try:
            async with asyncio.timeout(patience_s if by_client else seconds):
                return await self._speech(body, uploads)
        except TimeoutError:
            raise DeadlineError("no result within the deadline; try again later", by_client) from None

    async def _speech(self, body: SpeechRequest, uploads: Uploads) -> Result:
        timings = Timings()
        check_sources(body, uploads, self.args.limits.allow_urls)
        uploads = await self._fetched(body.step_audio or StepAudio(), uploads)
        planner = Planner(self.args, self.variants, self.voices)
        job = await asyncio.to_thread(planner.plan, body, uploads)
        audio = await run(self.stages, job, timings)
        data, duration = await asyncio.to_thread(_package, audio, job)
        return Result(data, duration, job, audio, timings)

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
        return await clone(stages, job.variant, job.clip, job.transcript, job.texts, job.sampling, timings)
    return await edit(stages, job.variant, job.clip, job.instruction, job.rounds, job.sampling, timings)


def _package(audio: Audio, job: Job) -> tuple[bytes, float]:
    samples = audio.samples if job.speed == 1.0 else change_speed(audio.samples, job.speed)
    return encode(samples, job.format), len(samples) / SAMPLE_RATE
