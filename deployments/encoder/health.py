"""Whether a replica still encodes: nothing waits for minutes, and not everything fails."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from deployments.encoder.encoder import Outcome
from deployments.errors import StageError

STUCK_S = 120.0
FAILURES = 20


class Health:
    """Watches clips from their arrival to their outcome.

    Args:
        clock: seconds; a monotonic clock.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.arrivals: dict[object, float] = {}
        self.failures = 0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around the time that a clip waits for its outcome."""
        ticket = object()
        self.arrivals[ticket] = self.clock()
        try:
            yield
        finally:
            del self.arrivals[ticket]

    def record(self, outcome: Outcome) -> None:
        """An outcome: failures that no client caused add up until something succeeds."""
        self.failures = self.failures + 1 if isinstance(outcome, StageError) else 0

    def check(self) -> None:
        """Raises StageError if a clip waits too long (the batching task or the worker is gone) or all have failed."""
        oldest = min(self.arrivals.values(), default=None)
        if oldest is not None and self.clock() - oldest > STUCK_S:
            raise StageError(f"a clip has waited for more than {STUCK_S:.0f} s")
        if self.failures >= FAILURES:
            raise StageError(f"the last {self.failures} clips failed")
