"""The encoder as a Ray Serve deployment: finds clips in its cache, batches the others and runs them on one thread."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from ray import serve
from ray.serve import metrics

from deployments.checkpoint import Layout
from deployments.device import claim
from deployments.encoder.encoder import Outcome
from deployments.encoder.inbox import Inbox, audio_seconds
from deployments.encoder.load import load, open_cache
from deployments.encoder.options import EncoderOptions, Limits
from deployments.errors import EditXError, StageError
from deployments.types import SAMPLE_RATE, Clip, Reference

STUCK_S = 120.0
MANY = 1000  # batches that Serve may cut while the worker is busy; the inbox merges them


@serve.deployment
class Encoder:
    """Reference clips -> tokens, mel and speaker vector."""

    def __init__(
        self, models: str, device: str, num_gpus: float, num_cpus: float, options: EncoderOptions | None = None
    ) -> None:
        options, layout = options or EncoderOptions(), Layout(Path(models))
        self.model = load(layout, claim(device, num_gpus, num_cpus), options)
        self.events = metrics.Counter("editx_encoder_cache", "Events of the encoder's cache.", ("event",))
        self.cache = open_cache(layout, options, lambda event: self.events.inc(tags={"event": event}))
        self.inbox = Inbox(self.model.encode_outcomes, Limits().batch_seconds)
        self.keeper = ThreadPoolExecutor(1, thread_name_prefix="encoder-cache")
        self.waiting: dict[object, float] = {}
        self.model.encode_batch([warm_up_clip()])

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Apply new limits to batches that begin from now on."""
        limits = Limits.model_validate(user_config)
        self.inbox.batch_seconds = limits.batch_seconds
        self._encode_together.set_max_batch_size(limits.batch_seconds)  # type: ignore[attr-defined]
        self._encode_together.set_batch_wait_timeout_s(limits.idle_wait_s)  # type: ignore[attr-defined]

    async def encode(self, clip: Clip) -> Reference:
        """Encode one clip: out of the cache, or together with others that arrive at about the same time.

        Raises:
            InvalidInputError: the clip cannot be encoded.
            StageError: encoding it failed.
        """
        key = await asyncio.to_thread(self.cache.key, clip)
        found = await asyncio.to_thread(self.cache.find, key)
        if found is not None:
            return found
        outcome = await self._wait_for_batch(clip)
        if isinstance(outcome, EditXError):
            raise outcome
        self.keeper.submit(self.cache.keep, key, outcome)
        return outcome

    async def _wait_for_batch(self, clip: Clip) -> Outcome:
        ticket = object()
        self.waiting[ticket] = time.monotonic()
        try:
            return await self._encode_together(clip)
        finally:
            del self.waiting[ticket]

    @serve.batch(
        max_batch_size=320, batch_wait_timeout_s=0.002, max_concurrent_batches=MANY, batch_size_fn=audio_seconds
    )
    async def _encode_together(self, clips: list[Clip]) -> list[Outcome]:
        return await self.inbox.encode(clips)

    async def check_health(self) -> None:
        """Raises StageError if a clip has waited for minutes: the batching task or the worker is gone."""
        oldest = min(self.waiting.values(), default=None)
        if oldest is not None and time.monotonic() - oldest > STUCK_S:
            raise StageError(f"a clip has waited for more than {STUCK_S:.0f} s")


def warm_up_clip(seconds: float = 1.0) -> Clip:
    """Quiet noise, (1, n) at 24 kHz."""
    samples = np.random.default_rng(0).normal(0, 0.1, (1, int(seconds * SAMPLE_RATE)))
    return Clip(samples.astype(np.float32), SAMPLE_RATE)
