import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import numpy as np
import pytest
import torch

from deployments.checkpoint import Layout
from deployments.types import EditPrompt, Reference, Sampling
from deployments.vocoder.deployment import Vocoder
from deployments.vocoder.model import Synthesizer

Tensors = dict[str, torch.Tensor]


class Response:
    """What a handle's streaming call gives back: the codes of the prompt, group by group."""

    def __init__(self, codes: np.ndarray) -> None:
        self.cancelled = False
        self._parts = self._give(codes)

    async def _give(self, codes: np.ndarray) -> AsyncGenerator[Any, None]:
        for start in range(0, len(codes), 5):
            await asyncio.sleep(0)
            yield codes[start : start + 5]
        yield {"finish_reason": "stop"}

    def __aiter__(self) -> AsyncGenerator[Any, None]:
        return self._parts

    def cancel(self) -> None:
        self.cancelled = True


class Handle:
    """A language model's handle, as far as the vocoder uses it."""

    def __init__(self, deployment_name: str) -> None:
        self.deployment_name = deployment_name
        self.responses: list[Response] = []
        self.stream = self

    def options(self, stream: bool) -> "Handle":
        assert stream
        return self

    def remote(self, prompt: EditPrompt, sampling: Sampling) -> Response:
        self.responses.append(Response(prompt.codes))
        return self.responses[-1]


@pytest.fixture(scope="module")
def vocoder(layout: Layout) -> Any:
    return Vocoder.func_or_class(str(layout.root), "cpu", 0, 1)


async def test_deployment_gives_what_the_model_gives(
    vocoder: Any, synthesizer: Synthesizer, reference: Reference, expected: Tensors
) -> None:
    await vocoder.check_health()
    codes = expected["clone.codes"].numpy()
    speech = await vocoder.synthesize(codes, reference, 7)
    assert np.array_equal(speech.samples, synthesizer.synthesize(codes, reference, 7))
    assert speech.queue_s >= 0 and speech.compute_s > 0 and speech.duration == 14 * 0.12


async def test_the_vocoder_reads_the_language_model_by_its_handle(
    vocoder: Any, reference: Reference, expected: Tensors
) -> None:
    handle, prompt = Handle("whole"), EditPrompt("", expected["clone.codes"].numpy().astype(np.int32))
    parts = [part async for part in vocoder.stream(handle, prompt, Sampling(seed=3), reference)]
    assert parts.pop() == {"finish_reason": "stop"}
    assert [len(part) for part in parts] == [22 * 480, 48 * 480, (6 + 8) * 480]


async def test_closing_the_stream_cancels_the_language_model(
    vocoder: Any, reference: Reference, expected: Tensors
) -> None:
    handle, prompt = Handle("closed"), EditPrompt("", np.tile(expected["clone.codes"].numpy(), 3))
    async with aclosing(vocoder.stream(handle, prompt, Sampling(seed=3), reference)) as parts:
        await anext(parts)
        assert not handle.responses[0].cancelled
    assert handle.responses[0].cancelled


async def test_the_first_handle_to_a_language_model_serves_all_streams(
    vocoder: Any, reference: Reference, expected: Tensors
) -> None:
    handles, prompt = [Handle("same"), Handle("same")], EditPrompt("", expected["clone.codes"].numpy()[:25])
    for handle in handles:
        async for _ in vocoder.stream(handle, prompt, Sampling(seed=3), reference):
            pass
    assert [len(handle.responses) for handle in handles] == [2, 0]
