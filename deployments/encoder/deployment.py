"""The encoder as a Ray Serve deployment: finds clips in its cache, batches the others and runs them on one thread."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from ray import serve
from ray.serve import metrics

from deployments.checkpoint import Layout
from deployments.device import claim
from deployments.encoder.encoder import Outcome
from deployments.encoder.health import Health
from deployments.encoder.inbox import Inbox, audio_seconds
from deployments.encoder.load import load, open_cache
from deployments.encoder.options import EncoderOptions, Limits
from deployments.errors import EditXError
from deployments.types import SAMPLE_RATE, Clip, Reference

MANY = 1000  # batches that Serve may cut while the worker is busy; the inbox merges them
WARM_UP = {"cpu": [(1.0, 1)], "cuda": [(3.0, 1), (10.0, 1), (30.0, 1), (10.0, 8)]}  # seconds, clips


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
        self.health = Health()
        for seconds, count in WARM_UP[device]:
            self.model.encode_batch([noise(seconds)] * count)

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
        with self.health.waiting():
            outcome = await self._encode_together(clip)
        self.health.record(outcome)
        if isinstance(outcome, EditXError):
            raise outcome
        self.keeper.submit(self.cache.keep, key, outcome)
        return outcome

    @serve.batch(
        max_batch_size=320, batch_wait_timeout_s=0.002, max_concurrent_batches=MANY, batch_size_fn=audio_seconds
    )
    async def _encode_together(self, clips: list[Clip]) -> list[Outcome]:
        return await self.inbox.encode(clips)

    async def check_health(self) -> None:
        """Raises StageError if clips hang or only fail."""
        self.health.check()


def noise(seconds: float) -> Clip:
    """(1, n) at 24 kHz."""
    samples = np.random.default_rng(0).normal(0, 0.1, (1, int(seconds * SAMPLE_RATE)))
    return Clip(samples.astype(np.float32), SAMPLE_RATE)
