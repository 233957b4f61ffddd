import numpy as np
import pytest

from deployments.types import Generation, Sampling
from serve_app.quality import flaws, ran_away
from tests.audio import tone


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (tone(), set()),
        (tone() * 1.9, set()),
        (np.empty(0, np.float32), {"empty"}),
        (tone() * 1e-4, {"silent"}),
        (np.clip(tone() * 4, -0.99, 0.99), {"clipped"}),
    ],
)
def test_flaws_of_samples(samples: np.ndarray, expected: set[str]) -> None:
    assert flaws(samples) == expected


@pytest.mark.parametrize(
    ("reason", "limit", "expected"), [("stop", None, set()), ("length", None, {"runaway"}), ("length", 50, set())]
)
def test_only_the_budget_of_the_text_makes_a_runaway(reason: str, limit: int | None, expected: set[str]) -> None:
    generation = Generation(np.zeros(50, np.int32), reason, 7, 0, 0)
    assert ran_away(generation, Sampling(0, max_new_tokens=limit)) == expected
