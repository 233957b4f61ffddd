"""A replica that hangs or only fails says so."""

import numpy as np
import pytest

from deployments.encoder.health import FAILURES, STUCK_S, Health
from deployments.errors import InvalidInputError, StageError
from deployments.types import Reference

DONE = Reference(*[np.zeros(1)] * 4, duration=1.0)  # type: ignore[arg-type, misc]


def test_a_clip_that_waits_for_minutes_is_noticed_and_one_that_was_served_is_not() -> None:
    now = [0.0]
    health = Health(lambda: now[0])
    with health.waiting():
        now[0] += STUCK_S
        health.check()
        now[0] += 1
        with pytest.raises(StageError, match="waited"):
            health.check()
    health.check()


def test_failures_in_a_row_are_noticed_and_one_success_clears_them() -> None:
    health = Health()
    for _ in range(FAILURES):
        health.check()
        health.record(StageError("a kernel failed"))
    with pytest.raises(StageError, match="failed"):
        health.check()
    health.record(DONE)
    health.check()


def test_what_clients_cause_is_no_failure() -> None:
    health = Health()
    for _ in range(FAILURES):
        health.record(InvalidInputError("silent"))
    health.check()
