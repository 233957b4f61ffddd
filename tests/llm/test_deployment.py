import asyncio
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from deployments.checkpoint import VARIANT_FOLDERS
from deployments.errors import InvalidInputError
from deployments.llm.deployment import LLM
from deployments.types import ClonePrompt, EditPrompt, Sampling
from tests.llm.conftest import GOLDENS

assert VARIANT_FOLDERS["base"] == "Step-Audio-EditX"


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    deployment = LLM.func_or_class(str(GOLDENS / "pipeline" / "models"), "base", "cpu", 0, 1, slots=4)
    yield deployment
    deployment._engine.close()


@pytest.fixture
def clone(expected: dict[str, torch.Tensor]) -> ClonePrompt:
    return ClonePrompt("你好", "The quick brown fox.", expected["mixed"].numpy(), "clone_0000000000000000")


def in_cycle(codes: np.ndarray) -> bool:
    groups = codes.reshape(-1, 5)
    return bool(np.all(groups[:, :2] < 1024) and np.all(groups[:, 2:] >= 1024) and np.all(groups < 5120))


async def test_codes_follow_the_cycle_and_the_budget(llm: LLM, clone: ClonePrompt):
    result = await llm.generate(clone, Sampling(seed=1))
    assert in_cycle(result.codes)
    assert result.codes.dtype == np.int32
    assert result.finish_reason in ("stop", "length")
    assert 0 < len(result.codes) <= 5 * 25
    assert result.prompt_tokens > 130
    assert result.compute_s > 0 and result.queue_s >= 0


async def test_the_same_seed_gives_the_same_codes_alone_and_in_company(llm: LLM, clone: ClonePrompt):
    edit = EditPrompt("Remove any noise.\n", clone.codes)
    alone = await llm.generate(clone, Sampling(seed=5))
    others = [llm.generate(edit, Sampling(seed=seed, max_new_tokens=30)) for seed in range(6)]
    together = await asyncio.gather(llm.generate(clone, Sampling(seed=5)), *others)
    assert np.array_equal(together[0].codes, alone.codes)
    assert not np.array_equal(together[1].codes, together[2].codes)


async def test_a_stream_gives_the_same_codes_in_whole_groups(llm: LLM, clone: ClonePrompt):
    *pieces, last = [item async for item in llm.stream(clone, Sampling(seed=5))]
    whole = await llm.generate(clone, Sampling(seed=5))
    assert len(last.codes) == 0
    assert (last.finish_reason, last.prompt_tokens) == (whole.finish_reason, whole.prompt_tokens)
    assert len(pieces[0]) == 5
    assert all(len(codes) % 5 == 0 for codes in pieces)
    assert np.array_equal(np.concatenate(pieces), whole.codes)


async def test_leaving_a_stream_frees_its_slot_at_once(llm: LLM, clone: ClonePrompt):
    stream = llm.stream(clone, Sampling(seed=5, max_new_tokens=400))
    await anext(stream)
    assert llm._engine.load[0] == 1
    await stream.aclose()
    assert llm._engine.load[0] == 0


async def test_seeds_of_any_size_are_taken(llm: LLM, clone: ClonePrompt):
    first, second = [await llm.generate(clone, Sampling(seed, max_new_tokens=10)) for seed in (2**70 + 1, -3)]
    assert not np.array_equal(first.codes, second.codes)


@pytest.mark.parametrize("top_k", [-1, 101])
async def test_top_k_out_of_range_is_refused(llm: LLM, clone: ClonePrompt, top_k: int):
    with pytest.raises(InvalidInputError, match="top_k"):
        await llm.generate(clone, Sampling(0, top_k=top_k))


async def test_bad_codes_are_refused(llm: LLM):
    with pytest.raises(InvalidInputError):
        await llm.generate(ClonePrompt("x", "y", np.array([9999]), "clone_0"), Sampling(0))


async def test_it_is_healthy(llm: LLM):
    await llm.check_health()
