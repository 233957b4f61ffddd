import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, RayTaskError
from ray.serve._private.common import DeploymentStatus, DeploymentStatusTrigger, ReplicaState
from ray.serve.exceptions import BackPressureError
from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview, DeploymentStatusOverview, ServeStatus

from deployments.errors import InvalidInputError, OverloadedError, StageError
from serve_app.stages import RemoteStage, _states


class FakeResponse:
    """An awaitable that ends as told, and remembers being cancelled."""

    def __init__(self, outcome: Any) -> None:
        self.outcome = outcome
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True

    def __await__(self) -> Any:
        return self._wait().__await__()

    async def _wait(self) -> Any:
        if self.outcome is None:
            await asyncio.sleep(60)
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome


class FakeHandle:
    """A handle whose method ``work`` gives one outcome after the other."""

    def __init__(self, *outcomes: Any) -> None:
        self.outcomes = list(outcomes)
        self.responses: list[FakeResponse] = []
        self.work = self

    def remote(self, *args: Any) -> FakeResponse:
        self.responses.append(FakeResponse(self.outcomes.pop(0)))
        return self.responses[-1]


def stage(*outcomes: Any) -> RemoteStage:
    return RemoteStage("Encoder", FakeHandle(*outcomes))  # type: ignore[arg-type]


def task_error(cause: Exception) -> Exception:
    return RayTaskError("work", "a long traceback", cause).as_instanceof_cause()


async def test_a_dead_replica_costs_one_more_try() -> None:
    assert await stage(ActorDiedError(), "fine").call("work", 1) == "fine"


async def test_two_dead_replicas_are_a_stage_error() -> None:
    with pytest.raises(StageError, match="Encoder died twice"):
        await stage(ActorDiedError(), ActorDiedError(), "too late").call("work")


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (lambda: task_error(InvalidInputError("too short", "a", "b")), InvalidInputError),
        (lambda: task_error(KeyError("bug")), StageError),
        (lambda: BackPressureError(3, 2), OverloadedError),
    ],
)
async def test_errors_arrive_in_the_project_s_own_hierarchy(
    raised: Callable[[], Exception], expected: type[Exception]
) -> None:
    with pytest.raises(expected) as caught:
        await stage(raised(), "no second try").call("work")
    assert not isinstance(caught.value, RayTaskError)


async def test_a_caller_that_stops_waiting_cancels_the_call() -> None:
    handle = FakeHandle(None)
    task = asyncio.create_task(RemoteStage("Encoder", handle).call("work"))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [response.cancelled for response in handle.responses] == [True]


def deployment(status: str, **replicas: int) -> DeploymentStatusOverview:
    states = {ReplicaState(name): count for name, count in replicas.items()}
    return DeploymentStatusOverview(DeploymentStatus(status), DeploymentStatusTrigger.UNSPECIFIED, states, "")


def test_states_from_what_the_controller_says() -> None:
    deployments = {
        "a": deployment("HEALTHY", RUNNING=1, STARTING=1),
        "b": deployment("UPDATING", STARTING=1),
        "c": deployment("HEALTHY"),
        "d": deployment("DEPLOY_FAILED", STARTING=1),
    }
    application = ApplicationStatusOverview(ApplicationStatus.RUNNING, "", 0, deployments)
    status = ServeStatus(applications={"editx": application})
    assert _states(status, "editx") == {"a": "ready", "b": "starting", "c": "scaled_to_zero", "d": "unhealthy"}
    assert _states(status, "another") == {}
