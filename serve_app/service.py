"""A request from its checked job to encoded audio, within its deadline. Knows neither HTTP nor Ray."""

import asyncio
from dataclasses import dataclass
from typing import Protocol

from deployments.errors import DeadlineError
from deployments.types import SAMPLE_RATE
from serve_app.audio_format import change_speed, encode
from serve_app.config import AppArgs, Variant
from serve_app.pipeline import Audio, Stages, Timings, clone, edit
from serve_app.requests import Job, Planner, Uploads
from serve_app.schemas import SpeechRequest
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

    async def speech(self, body: SpeechRequest, uploads: Uploads) -> Result:
        """Plan, run and encode one request.

        Raises: InvalidInputError, NotFoundError, OverloadedError, StageError; DeadlineError after the deadline.
        """
        timings = Timings()
        planner = Planner(self.args, self.variants, self.voices)
        job = await asyncio.to_thread(planner.plan, body, uploads)
        audio = await self._within_deadline(job, timings)
        data, duration = await asyncio.to_thread(_package, audio, job)
        return Result(data, duration, job, audio, timings)

    async def _within_deadline(self, job: Job, timings: Timings) -> Audio:
        seconds = self.args.limits.request_timeout_s
        try:
            async with asyncio.timeout(seconds):
                return await run(self.stages, job, timings)
        except TimeoutError:
            raise DeadlineError(f"no result within {seconds:g} s; try again later") from None


async def run(stages: Stages, job: Job, timings: Timings) -> Audio:
    """The pipeline of the job's mode."""
    if job.mode == "clone":
        return await clone(stages, job.variant, job.clip, job.transcript, job.text, job.sampling, timings)
    return await edit(stages, job.variant, job.clip, job.instruction, job.rounds, job.sampling, timings)


def _package(audio: Audio, job: Job) -> tuple[bytes, float]:
    samples = audio.samples if job.speed == 1.0 else change_speed(audio.samples, job.speed)
    return encode(samples, job.format), len(samples) / SAMPLE_RATE
