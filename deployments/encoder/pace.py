"""How long a batch waits for more clips.

Serve cuts a batch after a fixed wait, whether or not the worker is free. A wait that suits an idle replica then
cuts batches of one under load, and one that suits load delays every lone request. So the wait follows the worker:
short when it is idle, until about the end of the running batch when it is busy.
"""

import time
from collections.abc import Callable

SMOOTHING = 0.3
LATE_SHARE = 0.25


class Pace:
    """Follows the worker's batches and says how long the next should wait.

    Args:
        idle_wait_s: the wait when the worker is free.
        clock: seconds; a monotonic clock.
    """

    def __init__(self, idle_wait_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.idle_wait_s = idle_wait_s
        self.clock = clock
        self.batch_s = 0.0
        self.started: float | None = None

    def wait_s(self) -> float:
        """Seconds that a batch beginning now should wait."""
        if self.started is None:
            return self.idle_wait_s
        left = self.started + self.batch_s - self.clock()
        return max(self.idle_wait_s, left, self.batch_s * LATE_SHARE)

    def begin(self) -> None:
        """The worker took up a batch."""
        self.started = self.clock()

    def end(self) -> None:
        """The worker finished its batch."""
        assert self.started is not None
        took = self.clock() - self.started
        self.batch_s = took if self.batch_s == 0 else self.batch_s + SMOOTHING * (took - self.batch_s)
        self.started = None
