"""The wait of a batch follows the worker."""

from deployments.encoder.pace import Pace


class Clock:
    """Time that moves when told to."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_an_idle_worker_is_not_waited_for() -> None:
    assert Pace(0.002, Clock()).wait_s() == 0.002


def test_a_batch_waits_until_about_the_end_of_the_running_one() -> None:
    clock = Clock()
    pace = Pace(0.002, clock)
    pace.begin()
    clock.now += 0.4
    pace.end()
    pace.begin()
    clock.now += 0.1
    assert abs(pace.wait_s() - 0.3) < 1e-9
    clock.now += 0.9  # longer than expected: small batches are still not cut
    assert abs(pace.wait_s() - 0.1) < 1e-9
    pace.end()
    assert pace.wait_s() == 0.002
