from types import SimpleNamespace

import pytest

from deployments.llm import metrics
from deployments.llm.jobs import Stats


class Recorder:
    def __init__(self, name: str, text: str) -> None:
        self.name, self.values = name, []
        assert text.endswith(".")

    def inc(self, value: float) -> None:
        self.values.append(value)

    def set(self, value: float) -> None:
        self.values = [value]


def test_counters_grow_by_what_is_new_and_gauges_hold_the_last(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(metrics.metrics, "Counter", Recorder)
    monkeypatch.setattr(metrics.metrics, "Gauge", Recorder)
    publish = metrics.EngineMetrics()
    engine = SimpleNamespace(stats=Stats(tokens=5, step_s=0.5), load=(1, 2, 30), slots=4, max_length=100)
    publish(engine)
    engine.stats.tokens = 12
    publish(engine)
    assert publish._counters["tokens"].values == [5, 7]
    assert publish._counters["step_s"].values == [0.5]
    assert {name: gauge.values for name, gauge in publish._gauges.items()} == {
        "slots": [4],
        "slots_used": [1],
        "waiting": [2],
        "cache_tokens": [30],
        "cache_capacity": [400],
    }
