"""The deployment on a real local cluster: results, faults, batches, limits."""

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import ray
from ray import serve

from deployments.encoder.deployment import Encoder, audio_seconds
from deployments.errors import InvalidInputError
from deployments.types import Clip
from tests.encoder.conftest import MODELS, Tensors, noise


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        serve.start(proxy_location="Disabled")
        yield
        serve.shutdown()
        ray.shutdown()


@pytest.fixture(scope="module")
def handle(cluster: None) -> Any:
    options = {"max_ongoing_requests": 400, "user_config": {"batch_seconds": 320}}
    bound = Encoder.options(**options).bind(str(MODELS), "cpu", 0, 1)  # type: ignore[attr-defined]
    return serve.run(bound, name="encoder", route_prefix=None)


async def test_the_golden_clip_gives_its_codes_and_a_bad_one_an_error(
    handle: Any, speech: Clip, pipeline_goldens: Tensors
) -> None:
    silent = Clip(np.zeros((1, 16_000), dtype=np.float32), 16_000)
    clips = [speech, silent, speech, noise(0.01)]
    results = await asyncio.gather(*(_encode(handle, clip) for clip in clips), return_exceptions=True)
    for result in (results[0], results[2]):
        np.testing.assert_array_equal(result.codes, pipeline_goldens["mixed"])  # type: ignore[union-attr]
    assert isinstance(results[1], InvalidInputError) and results[1].code == "audio_silent"
    assert isinstance(results[3], InvalidInputError) and results[3].code == "audio_too_short"


def test_a_clip_alone_fits_any_budget() -> None:
    assert audio_seconds([noise(100.0, 8000)]) == 1
    assert audio_seconds([noise(1.2), noise(3.0)]) == 5


async def _encode(handle: Any, clip: Clip) -> Any:
    return await handle.encode.remote(clip)
