"""An encoder deployment that can be watched, slowed, made to fail and killed."""

import os
import random
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from ray import serve

from deployments.encoder.deployment import Encoder
from deployments.encoder.encoder import Outcome, Prepared
from deployments.encoder.options import EncoderOptions
from deployments.types import Clip
from tests.encoder.conftest import MODELS

Plain: Any = Encoder.func_or_class  # type: ignore[attr-defined]


class Watched(Plain):
    """Counts batches and the cache's events.

    Args:
        cache_dir: the cache's folder; None leaves the cache out altogether.
        slow_s: added to every batch. failures: share of clips that make their batch raise.
    """

    def __init__(self, cache_dir: Path | None = None, slow_s: float = 0.0, failures: float = 0.0) -> None:
        memory = 64 if cache_dir else 0
        super().__init__(str(MODELS), "cpu", 0, 1, EncoderOptions(cache_mb=memory, cache_dir=cache_dir))
        self.slow_s, self.failures, self.random = slow_s, failures, random.Random(0)
        self.batches: list[int] = []
        self.seen: Counter[str] = Counter()
        self.cache.observe = lambda event: self.seen.update([event])
        self.encode_outcomes, self.encode_prepared = self.model.encode_outcomes, self.model.encode_prepared
        self.inbox.run = self._watched
        self.model.encode_prepared = self._failing

    def _watched(self, clips: list[Clip]) -> list[Outcome]:
        self.batches.append(len(clips))
        time.sleep(self.slow_s)
        return self.encode_outcomes(clips)

    def _failing(self, clips: list[Prepared]) -> list[Any]:
        if any(self.random.random() < self.failures for _ in clips):
            raise RuntimeError("a kernel failed")
        return self.encode_prepared(clips)

    async def figures(self) -> dict[str, Any]:
        """Sizes of the batches so far, events of the cache, and who this is."""
        return {"batches": self.batches, "events": dict(self.seen), "pid": os.getpid()}

    async def die(self, after_s: float) -> None:
        """End the replica's process a little later."""
        threading.Timer(after_s, os._exit, [1]).start()


def deploy(name: str, limits: dict[str, Any] | None = None, replicas: int = 1, **arguments: Any) -> Any:
    """A handle to a running application of that name."""
    options = {"num_replicas": replicas, "max_ongoing_requests": 2000, "ray_actor_options": {"num_cpus": 0.1}}
    options |= {"user_config": limits} if limits else {}
    bound = serve.deployment(Watched).options(**options, health_check_period_s=1).bind(**arguments)
    return serve.run(bound, name=name, route_prefix=None)
