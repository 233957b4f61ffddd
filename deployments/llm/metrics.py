"""What an engine tells Prometheus. Seconds are counters, so that rates of them are exact means and shares."""

from dataclasses import replace

from ray.serve import metrics

from deployments.llm.engine import Engine
from deployments.llm.jobs import Stats

COUNTERS = {
    "requests": "Requests that finished.",
    "tokens": "Tokens drawn.",
    "steps": "Decoding steps.",
    "prefill_tokens": "Prompt tokens run.",
    "queue_s": "Seconds that finished requests waited for a slot.",
    "prefill_s": "Seconds spent on prompts.",
    "step_s": "Seconds spent on decoding steps.",
}
GAUGES = {
    "slots": "Slots there are.",
    "slots_used": "Slots in use.",
    "waiting": "Requests without a slot.",
    "cache_tokens": "Cache positions in use.",
    "cache_capacity": "Cache positions there are.",
}


class EngineMetrics:
    """Publishes an engine's counters; one per replica, which Serve's tags tell apart."""

    def __init__(self) -> None:
        self._counters = {name: metrics.Counter(f"editx_llm_{name}", text) for name, text in COUNTERS.items()}
        self._gauges = {name: metrics.Gauge(f"editx_llm_{name}", text) for name, text in GAUGES.items()}
        self._published = Stats()

    def __call__(self, engine: Engine) -> None:
        """Publish what changed; called by the engine between two turns."""
        now = replace(engine.stats)
        for name, counter in self._counters.items():
            grown = getattr(now, name) - getattr(self._published, name)
            if grown > 0:
                counter.inc(grown)
        self._published = now
        used, waiting, tokens = engine.load
        values = (engine.slots, used, waiting, tokens, engine.slots * engine.max_length)
        for gauge, value in zip(self._gauges.values(), values, strict=True):
            gauge.set(value)
