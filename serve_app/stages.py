"""The pipeline's stage interfaces over Ray Serve handles: retry, cancellation and error mapping in one place."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, cast

import numpy as np
from ray import serve
from ray.exceptions import RayActorError, RayTaskError
from ray.serve._private.common import DeploymentStatus, ReplicaState
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator
from ray.serve.schema import ServeStatus

from deployments.errors import EditXError, OverloadedError, StageError
from deployments.types import Clip, Generation, Prompt, Reference, Sampling, Speech
from serve_app.pipeline import LLMStage

logger = logging.getLogger("ray.serve")


class RemoteStage:
    """Calls one deployment's methods; every call is unary and safe to repeat."""

    def __init__(self, name: str, handle: DeploymentHandle) -> None:
        self.name = name
        self.handle = handle

    async def call(self, method: str, *args: Any) -> Any:
        """Await a method's result.

        A replica that dies meanwhile is replaced by one more try on another. A caller that stops waiting cancels
        the call: Serve would otherwise let it run to its end.

        Raises: whatever of the project's hierarchy the stage raised; OverloadedError if its queue is full;
        StageError for anything else.
        """
        try:
            return await self._once(method, *args)
        except RayActorError:
            logger.warning("%s: a replica died during %s, trying another", self.name, method)
        try:
            return await self._once(method, *args)
        except RayActorError as error:
            raise StageError(f"{self.name} died twice during {method}") from error

    async def _once(self, method: str, *args: Any) -> Any:
        response = getattr(self.handle, method).remote(*args)
        try:
            return await response
        except asyncio.CancelledError:
            response.cancel()
            raise
        except RayActorError:
            raise
        except Exception as error:
            raise self._mapped(error, method) from error

    def _mapped(self, error: Exception, method: str) -> Exception:
        """What a caller sees of a failure: the project's own errors as they are, a dead replica as such."""
        cause = error
        while isinstance(cause, RayTaskError):  # a stage that calls another wraps the other's wrapping
            cause = cause.cause
        if isinstance(cause, EditXError | RayActorError):
            return cause
        if isinstance(cause, BackPressureError):
            return OverloadedError(f"{self.name} has too many requests waiting; try again later")
        if isinstance(cause, DeploymentUnavailableError):
            return StageError(f"{self.name} cannot start; see the Ray dashboard")
        return StageError(f"{self.name} failed during {method}: {cause!r}")


class RemoteEncoder(RemoteStage):
    """EncoderStage over Ray."""

    async def encode(self, clip: Clip) -> Reference:
        return await self.call("encode", clip)


class RemoteLLM(RemoteStage):
    """LLMStage over Ray; the vocoder iterates it itself when it streams."""

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Generation:
        return await self.call("generate", prompt, sampling)


class RemoteVocoder(RemoteStage):
    """VocoderStage over Ray."""

    async def synthesize(self, codes: np.ndarray, reference: Reference, seed: int) -> Speech:
        return await self.call("synthesize", codes, reference, seed)

    async def stream(
        self, llm: LLMStage, prompt: Prompt, sampling: Sampling, reference: Reference
    ) -> AsyncGenerator[np.ndarray | Generation, None]:
        """Tried once more on another replica if one dies before the first samples, never after."""
        assert isinstance(llm, RemoteLLM)
        for last_try in (False, True):
            begun = False
            try:
                async with aclosing(self._stream(llm.handle, prompt, sampling, reference)) as parts:
                    async for part in parts:
                        begun = True
                        yield part
                return
            except RayActorError as error:
                if begun or last_try:
                    raise StageError("a replica died while it was speaking") from error
                logger.warning("%s: a replica died before it spoke, trying another", self.name)

    async def _stream(self, *args: Any) -> AsyncGenerator[np.ndarray | Generation, None]:
        response = cast(DeploymentResponseGenerator[Any], self.handle.options(stream=True).stream.remote(*args))
        try:
            async for part in response:
                yield part
        except RayActorError:
            raise
        except Exception as error:
            raise self._mapped(error, "stream") from error
        finally:
            response.cancel()


class ReplicaStates:
    """What the controller says of each deployment, asked at most once a second."""

    def __init__(self, app_name: str) -> None:
        self._app_name = app_name
        self._asked = -1.0
        self._states: dict[str, str] = {}

    async def get(self) -> dict[str, str]:
        """Deployment name -> ready, starting, unhealthy or scaled_to_zero.

        A replica counts as ready once its warm-up was through: Serve runs the constructor before it says RUNNING.
        """
        if time.monotonic() - self._asked > 1.0:
            status = await asyncio.to_thread(serve.status)
            self._states = _states(status, self._app_name)
            self._asked = time.monotonic()
        return self._states


def _states(status: ServeStatus, app_name: str) -> dict[str, str]:
    if app_name not in status.applications:
        return {}
    states = {}
    for name, deployment in status.applications[app_name].deployments.items():
        replicas = deployment.replica_states
        if replicas.get(ReplicaState.RUNNING, 0) > 0:
            states[name] = "ready"
        elif deployment.status in (DeploymentStatus.UNHEALTHY, DeploymentStatus.DEPLOY_FAILED):
            states[name] = "unhealthy"
        else:
            states[name] = "starting" if sum(replicas.values()) else "scaled_to_zero"
    return states
