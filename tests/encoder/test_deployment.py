"""The deployment on a real local cluster: results, batches under load, cache, faults."""

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from ray import serve

from deployments.encoder.inbox import audio_seconds
from deployments.errors import EditXError, InvalidInputError, StageError
from deployments.types import Clip, Reference
from serve_app.stages import RemoteEncoder
from tests.encoder.conftest import Tensors, noise
from tests.encoder.faulty import deploy

SILENT = Clip(np.zeros((1, 16_000), dtype=np.float32), 16_000)


@pytest.fixture(scope="module", autouse=True)
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
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("encoded")


@pytest.fixture(scope="module")
def first(folder: Path) -> Any:
    """One replica with a cache and small batches."""
    return deploy("first", {"batch_seconds": 8, "idle_wait_s": 0.01}, cache_dir=folder)


@pytest.fixture(scope="module")
def slow() -> Any:
    """One replica whose batches take 80 ms more."""
    return deploy("slow", slow_s=0.08)


async def test_clips_10_ms_apart_share_batches_and_none_is_lost(slow: Any) -> None:
    before = len((await slow.figures.remote())["batches"])
    tasks = []
    for seed in range(64):
        tasks.append(asyncio.create_task(_encode(slow, noise(0.5, seed=seed))))
        await asyncio.sleep(0.01)
    results = await asyncio.wait_for(asyncio.gather(*tasks), 60)
    assert all(isinstance(result, Reference) and len(result.codes) for result in results)
    batches = (await slow.figures.remote())["batches"][before:]
    assert sum(batches) == 64 and 64 / len(batches) > 4, batches


async def test_a_cancelled_caller_leaves_the_others_of_its_batch_unharmed(slow: Any) -> None:
    responses = [slow.encode.remote(noise(0.5, seed=seed)) for seed in range(8)]
    await asyncio.sleep(0.05)
    for response in responses[::2]:
        response.cancel()
    rest = await asyncio.wait_for(asyncio.gather(*responses[1::2]), 30)
    assert all(isinstance(result, Reference) for result in rest)
    assert isinstance(await _encode(slow, noise(0.5)), Reference)


async def test_the_golden_clip_gives_its_codes_and_a_bad_one_an_error(
    first: Any, speech: Clip, pipeline_goldens: Tensors
) -> None:
    clips = [speech, SILENT, speech, noise(0.01), noise(40.0, 8000)]
    results = await asyncio.gather(*(_encode(first, clip) for clip in clips), return_exceptions=True)
    for result in (results[0], results[2]):
        assert isinstance(result, Reference)
        np.testing.assert_array_equal(result.codes, pipeline_goldens["mixed"])
    assert isinstance(results[1], InvalidInputError) and results[1].code == "audio_silent"
    assert isinstance(results[3], InvalidInputError) and results[3].code == "audio_too_short"
    assert isinstance(results[4], Reference), "a clip longer than the budget is a batch of its own"
    assert (await _encode(first, speech)).cached and not results[0].cached  # type: ignore[union-attr]


async def test_replicas_share_the_folder_and_find_a_clip_without_running_a_model(first: Any, folder: Path) -> None:
    second = deploy("second", cache_dir=folder)
    before = await first.figures.remote()
    files = len(list(folder.glob("*/*.safetensors")))
    clip = noise(0.6, seed=99)
    computed = await _encode(first, clip)
    again = await _encode(first, clip)
    while len(list(folder.glob("*/*.safetensors"))) == files:
        await asyncio.sleep(0.02)
    shared = await _encode(second, clip)
    assert (computed.cached, again.cached, shared.cached) == (False, True, True)
    np.testing.assert_array_equal(shared.codes, computed.codes)
    after, others = await first.figures.remote(), await second.figures.remote()
    assert len(after["batches"]) == len(before["batches"]) + 1
    assert after["events"]["memory_hit"] == before["events"].get("memory_hit", 0) + 1
    assert others["batches"] == [] and others["events"] == {"folder_hit": 1}


async def test_callers_of_a_replica_that_dies_in_a_batch_get_results_from_another() -> None:
    handle = deploy("pair", replicas=2, slow_s=0.5)
    stage = RemoteEncoder("Encoder", handle)
    calls = [asyncio.create_task(stage.encode(noise(0.5, seed=seed))) for seed in range(12)]
    await asyncio.sleep(0.2)
    await handle.die.remote(0.05)
    results = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 60)
    assert all(isinstance(result, Reference | StageError) for result in results), results
    assert sum(isinstance(result, Reference) for result in results) >= 6


async def test_nothing_hangs_in_1000_requests_with_random_failures() -> None:
    handle = deploy("faulty", failures=0.05)
    chance = random.Random(1)
    counts = {"encoded": 0, "refused": 0, "failed": 0, "cancelled": 0}

    async def request(number: int) -> None:
        bad = chance.random() < 0.1
        response = handle.encode.remote(SILENT if bad else noise(0.1 + 0.1 * chance.random(), 8000, seed=number))
        if chance.random() < 0.1:
            await asyncio.sleep(0.02 * chance.random())
            response.cancel()
        try:
            assert isinstance(await response, Reference)
            counts["encoded"] += 1
        except InvalidInputError:
            counts["refused"] += 1
        except EditXError:
            counts["failed"] += 1
        except (asyncio.CancelledError, ray.exceptions.RayError):
            counts["cancelled"] += 1

    for start in range(0, 1000, 100):
        await asyncio.wait_for(asyncio.gather(*(request(number) for number in range(start, start + 100))), 60)
    assert sum(counts.values()) == 1000 and all(counts.values()), counts
    assert isinstance(await _outcome(handle), Reference | StageError)


def test_a_clip_alone_fits_any_budget() -> None:
    assert audio_seconds([noise(100.0, 8000)]) == 1
    assert audio_seconds([noise(1.2), noise(3.0)]) == 5


async def _encode(handle: Any, clip: Clip) -> Any:
    return await handle.encode.remote(clip)


async def _outcome(handle: Any) -> Any:
    try:
        return await asyncio.wait_for(_encode(handle, noise(0.5)), 10)
    except StageError as error:
        return error
