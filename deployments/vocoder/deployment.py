"""The vocoder as a Ray Serve deployment."""

import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any, cast

import numpy as np
from ray import serve
from ray.serve.handle import DeploymentHandle

from deployments import device as share
from deployments.checkpoint import Layout
from deployments.errors import StageError
from deployments.types import Prompt, Reference, Sampling, Speech
from deployments.vocoder import precision as arithmetic
from deployments.vocoder.admission import stream_budget
from deployments.vocoder.chunks import SCHEDULE
from deployments.vocoder.engine import Engine, Limits
from deployments.vocoder.model import Settings, load
from deployments.vocoder.speech import speak
from deployments.vocoder.warmup import warm_up

logger = logging.getLogger("ray.serve")
_STALLED_S = 60.0


@serve.deployment
class Vocoder:
    """Audio codes to samples, as whole clips or as streams."""

    def __init__(
        self,
        models: str,
        device: str,
        num_gpus: float,
        num_cpus: float,
        precision: str = "auto",
        max_batch: int = 16,
        max_ahead_s: float = 20.0,
        stream_memory_gb: float | None = None,
        chunk_pairs: tuple[int, ...] = SCHEDULE,
        conformer_tokens: int | None = None,
    ) -> None:
        """Load and warm up.

        Args:
            models: the folder of the published checkpoint.
            device, num_gpus, num_cpus: this replica's share, see deployments.device.claim.
            precision: auto, float32, tf32, float16 or bfloat16; auto is float16 on a GPU and float32 on a CPU.
            max_batch: whole clips, or chunks of streams, in one batch.
            max_ahead_s: how far a stream's samples may run ahead of their playing, in seconds.
            stream_memory_gb: memory for the states of streams; those that do not fit wait. None for what is left.
            chunk_pairs: lengths of a stream's chunks in token pairs (25 a second); the last one repeats.
            conformer_tokens: past tokens that a stream's conformer attends to; None for all, as published.
        """
        started = time.perf_counter()
        place = share.claim(device, num_gpus, num_cpus)
        chosen = arithmetic.choose(precision, place)
        settings = Settings(*arithmetic.apply(chosen), conformer_tokens=conformer_tokens)
        synthesizer = load(Layout(Path(models)), place, settings)
        warm_up(synthesizer, tuple(chunk_pairs))
        left = stream_budget(place, num_gpus) if stream_memory_gb is None else int(stream_memory_gb * 2**30)
        self._engine = Engine(synthesizer, Limits(max_batch, stream_bytes=left, schedule=tuple(chunk_pairs)))
        self._ahead_s = max_ahead_s
        self._llms: dict[str, DeploymentHandle] = {}  # a handle that just arrived would first look for the replicas
        logger.info("vocoder ready in %.1f s, %s on %s", time.perf_counter() - started, chosen, place)

    async def synthesize(self, codes: np.ndarray, reference: Reference, seed: int) -> Speech:
        """A whole clip. codes (n,), 0..5119. Raises InvalidInputError for codes that cannot be synthesised."""
        done = await self._engine.synthesize(codes, reference, seed)
        return Speech(done.value, done.queue_s, done.compute_s)

    async def stream(
        self, llm: DeploymentHandle, prompt: Prompt, sampling: Sampling, reference: Reference
    ) -> AsyncGenerator[Any, None]:
        """Speak while the language model still writes: float32 samples (n,) at 24 kHz, chunk by chunk.

        llm: its ``stream(prompt, sampling)`` is called and yields arrays of codes; anything else that it yields
        comes after the samples. The language model is cancelled as soon as this generator is closed.
        """
        llm = self._llms.setdefault(llm.deployment_name, llm)
        source = llm.options(stream=True).stream.remote(prompt, sampling)
        codes = cast(AsyncIterator[Any], source)
        try:
            async with aclosing(speak(self._engine, codes, reference, sampling.seed, self._ahead_s)) as speech:
                async for part in speech:
                    yield part
        finally:
            source.cancel()

    async def check_health(self) -> None:
        """Raises if a batch has been running for longer than any can take."""
        if self._engine.scheduler.stalled_s > _STALLED_S:
            raise StageError("the vocoder's worker thread is stuck or gone")
