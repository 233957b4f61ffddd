"""The vocoder as a Ray Serve deployment: one model, one worker thread that runs it."""

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from ray import serve

from deployments import device as share
from deployments.checkpoint import Layout
from deployments.types import GROUP_SIZE, Reference, Speech
from deployments.vocoder.model import load

logger = logging.getLogger("ray.serve")
_WARM_GROUPS = 10


@serve.deployment
class Vocoder:
    """Audio codes to samples."""

    def __init__(self, models: str, device: str, num_gpus: float, num_cpus: float) -> None:
        """Load and warm up.

        Args:
            models: the folder of the published checkpoint.
            device, num_gpus, num_cpus: this replica's share, see deployments.device.claim.
        """
        started = time.perf_counter()
        self._model = load(Layout(Path(models)), share.claim(device, num_gpus, num_cpus))
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="vocoder")
        codes = np.zeros(_WARM_GROUPS * GROUP_SIZE, np.int32)
        self._worker.submit(self._model.synthesize, codes, _warm_reference(), 0).result()
        logger.info("vocoder ready in %.1f s", time.perf_counter() - started)

    async def synthesize(self, codes: np.ndarray, reference: Reference, seed: int) -> Speech:
        """A whole clip. codes (n,), 0..5119. Raises InvalidInputError for codes that cannot be synthesised."""
        asked = time.perf_counter()

        def work() -> Speech:
            started = time.perf_counter()
            samples = self._model.synthesize(codes, reference, seed)
            return Speech(samples, started - asked, time.perf_counter() - started)

        return await asyncio.get_running_loop().run_in_executor(self._worker, work)

    async def check_health(self) -> None:
        """The worker thread must come round within Serve's health-check timeout."""
        await asyncio.get_running_loop().run_in_executor(self._worker, int)


def _warm_reference() -> Reference:
    """A silent reference of ten groups."""
    vq02, vq06 = np.zeros(2 * _WARM_GROUPS, np.int32), np.zeros(3 * _WARM_GROUPS, np.int32)
    mel = np.full((6 * _WARM_GROUPS, 80), -11.5, np.float32)
    return Reference(vq02, vq06, mel, np.ones(192, np.float32), 0.12 * _WARM_GROUPS)
