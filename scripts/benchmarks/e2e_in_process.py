"""The same requests through the same stages in this process: what they take without Serve, Ray and HTTP."""

import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deployments.checkpoint import Layout
from deployments.encoder.encoder import Encoder
from deployments.encoder.load import load, open_cache
from deployments.encoder.options import EncoderOptions
from deployments.errors import EditXError
from deployments.llm.deployment import LLM
from deployments.types import Clip, Generation, Prompt, Reference, Sampling, Speech
from deployments.vocoder.deployment import Vocoder
from serve_app.audio_format import ClipLimits
from serve_app.config import AppArgs
from serve_app.pipeline import LLMStage, Stages
from serve_app.requests import Uploads
from serve_app.schemas import SpeechRequest
from serve_app.service import Service
from serve_app.voices import Voices


class PlainEncoder:
    """The encoder and its cache, one clip at a time."""

    def __init__(self, layout: Layout) -> None:
        import torch

        self.model: Encoder = load(layout, torch.device("cpu"), EncoderOptions())
        self.cache = open_cache(layout, EncoderOptions(), lambda event: None)

    async def encode(self, clip: Clip) -> Reference:
        key = self.cache.key(clip)
        found = self.cache.find(key)
        if found is not None:
            return found
        (outcome,) = self.model.encode_outcomes([clip])
        if isinstance(outcome, EditXError):
            raise outcome
        self.cache.keep(key, outcome)
        return outcome


class PlainVocoder:
    """The vocoder's whole clips."""

    def __init__(self, layout: Layout) -> None:
        self.vocoder = Vocoder.func_or_class(str(layout.root), "cpu", 0, 1)  # type: ignore[attr-defined]

    async def synthesize(self, codes: np.ndarray, reference: Reference, seed: int) -> Speech:
        return await self.vocoder.synthesize(codes, reference, seed)

    def stream(
        self, llm: LLMStage, prompt: Prompt, sampling: Sampling, reference: Reference
    ) -> AsyncGenerator[np.ndarray | Generation, None]:
        raise AssertionError("only whole clips are compared")


class NoStates:
    """Nothing is deployed here."""

    async def get(self) -> dict[str, str]:
        return {}


@dataclass(frozen=True)
class InProcess:
    """Answers requests without a server."""

    service: Service

    async def seconds(self, body: SpeechRequest) -> float:
        """What one request takes."""
        started = time.perf_counter()
        await self.service.speech(body, Uploads())
        return time.perf_counter() - started


def in_process(args: AppArgs, variant: str, voices: Path) -> InProcess:
    """Everything that the deployments of ``args`` run, loaded into this process, on the CPU."""
    layout = Layout(args.models.absolute())
    llm = LLM.func_or_class(str(layout.root), variant, "cpu", 0, 1)  # type: ignore[attr-defined]
    stages = Stages(PlainEncoder(layout), {variant: llm}, PlainVocoder(layout))
    limits = ClipLimits(args.limits.min_clip_s, args.limits.max_clip_s)
    return InProcess(Service(args, [variant], Voices([voices], limits), stages, NoStates()))  # type: ignore[list-item]
