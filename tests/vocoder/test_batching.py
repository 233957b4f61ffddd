"""Batches, and batches in the padded shapes that CUDA graphs want, give what their members give alone."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from deployments.checkpoint import Layout
from deployments.types import AUDIO_CODES, VQ02_CODES, Reference
from deployments.vocoder.batches import Budget
from deployments.vocoder.chunks import Chunk, Chunks
from deployments.vocoder.graphs import Function, Graphs
from deployments.vocoder.model import Settings, Synthesizer, Utterance
from deployments.vocoder.sizes import read_sizes
from deployments.vocoder.weights import build, load

CPU = torch.device("cpu")


class Padded(Graphs):
    """Asks for the shapes of CUDA graphs, and runs functions as they are."""

    def __init__(self, scratch_bytes: int) -> None:
        super().__init__(CPU)
        self.enabled = True
        self.shapes: set[tuple[object, ...]] = set()
        self._scratch = {name: torch.zeros(scratch_bytes, dtype=torch.uint8) for name in ("remembered", "added")}

    def run(self, function: Function, *inputs: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
        self.shapes.add((function.__qualname__, *(None if x is None else tuple(x.shape) for x in inputs)))
        return function(*inputs)


@pytest.fixture(scope="module")
def graphed(layout: Layout) -> Synthesizer:
    flow, hift = build(*read_sizes(layout.cosyvoice / "cosyvoice.yaml"))
    load(flow, layout.cosyvoice / "flow.pt", CPU)
    load(hift, layout.cosyvoice / "hift.pt", CPU)
    return Synthesizer(flow, hift, Settings(), Padded(20_000_000))


def utterance(reference: Reference, groups: int, seed: int, prompt_groups: int = 20) -> Utterance:
    random = np.random.default_rng(seed)
    first = random.integers(0, VQ02_CODES, (groups, 2))
    second = random.integers(VQ02_CODES, AUDIO_CODES, (groups, 3))
    shorter = Reference(
        reference.vq02[: 2 * prompt_groups],
        reference.vq06[: 3 * prompt_groups],
        reference.mel[: 6 * prompt_groups],
        reference.speaker,
        0.12 * prompt_groups,
    )
    return Utterance(np.concatenate([first, second], axis=1).reshape(-1), shorter, seed)


@pytest.fixture(scope="module")
def utterances(reference: Reference) -> list[Utterance]:
    return [utterance(reference, 5, 0), utterance(reference, 23, 1, 26), utterance(reference, 11, 2, 9)]


def test_clips_of_different_lengths_equal_single_ones(synthesizer: Synthesizer, utterances: list[Utterance]) -> None:
    together = synthesizer.synthesize_batch(utterances)
    for samples, single in zip(together, utterances, strict=True):
        assert len(samples) == len(single.codes) // 5 * 2880
        alone = synthesizer.synthesize(single.codes, single.reference, single.seed)
        np.testing.assert_allclose(samples, alone, atol=1e-4)


def test_a_small_budget_gives_the_same(layout: Layout, synthesizer: Synthesizer, utterances: list[Utterance]) -> None:
    flow, hift = build(*read_sizes(layout.cosyvoice / "cosyvoice.yaml"))
    load(flow, layout.cosyvoice / "flow.pt", CPU)
    load(hift, layout.cosyvoice / "hift.pt", CPU)
    small = Synthesizer(flow, hift, Settings(budget=Budget(solve=200, attend=1, render=50)))
    for one, other in zip(small.synthesize_batch(utterances), synthesizer.synthesize_batch(utterances), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_graph_shaped_clips_equal_plain_ones(
    synthesizer: Synthesizer, graphed: Synthesizer, utterances: list[Utterance]
) -> None:
    for single in utterances:
        padded = graphed.synthesize(single.codes, single.reference, single.seed)
        plain = synthesizer.synthesize(single.codes, single.reference, single.seed)
        np.testing.assert_allclose(padded, plain, atol=1e-4)


def streamed(synthesizer: Synthesizer, utterances: Sequence[Utterance]) -> list[np.ndarray]:
    """All utterances as streams that advance together as long as they last."""
    streams = [synthesizer.stream(each.reference, each.seed) for each in utterances]
    chunks = [iter(cut(each.codes)) for each in utterances]
    synthesizer.open(streams, [each.codes[:5] for each in utterances])
    parts: list[list[np.ndarray]] = [[] for _ in utterances]
    while turns := [(row, chunk) for row, pending in enumerate(chunks) if (chunk := next(pending, None))]:
        samples = synthesizer.advance([streams[row] for row, _ in turns], [chunk for _, chunk in turns])
        for (row, _), part in zip(turns, samples, strict=True):
            parts[row].append(part)
    return [np.concatenate(own) for own in parts]


def cut(codes: np.ndarray) -> list[Chunk]:
    chunks = Chunks()
    chunks.feed(codes)
    chunks.end()
    return list(iter(chunks.next, None))


@pytest.fixture(scope="module")
def long_utterances(reference: Reference) -> list[Utterance]:
    return [utterance(reference, 64, 5, 8), utterance(reference, 55, 6, 21), utterance(reference, 10, 7)]


@pytest.fixture(scope="module")
def single_streams(synthesizer: Synthesizer, long_utterances: list[Utterance]) -> list[np.ndarray]:
    return [streamed(synthesizer, [each])[0] for each in long_utterances]


def test_streams_together_equal_single_ones(
    synthesizer: Synthesizer, long_utterances: list[Utterance], single_streams: list[np.ndarray]
) -> None:
    for together, alone, each in zip(
        streamed(synthesizer, long_utterances), single_streams, long_utterances, strict=True
    ):
        assert len(together) == len(each.codes) // 5 * 2880
        np.testing.assert_allclose(together, alone, atol=1e-4)


def test_graph_shaped_streams_equal_plain_ones(
    graphed: Synthesizer, long_utterances: list[Utterance], single_streams: list[np.ndarray]
) -> None:
    for together, alone in zip(streamed(graphed, long_utterances), single_streams, strict=True):
        np.testing.assert_allclose(together, alone, atol=1e-4)
    alone = streamed(graphed, long_utterances[:1])[0]
    np.testing.assert_allclose(alone, single_streams[0], atol=1e-4)
    assert isinstance(graphed.graphs, Padded)
    steps = {shape[1] for shape in graphed.graphs.shapes if str(shape[0]).endswith("_step_of_stream")}
    assert {shape[1:] for shape in steps} >= {(32, 80), (48, 80), (96, 80)}


def test_streams_have_a_whole_clips_length_and_no_clicks_where_chunks_join(
    synthesizer: Synthesizer, long_utterances: list[Utterance]
) -> None:
    each = long_utterances[0]
    stream = synthesizer.stream(each.reference, each.seed)
    synthesizer.open([stream], [each.codes[:5]])
    parts = [synthesizer.advance([stream], [chunk])[0] for chunk in cut(each.codes)]
    samples = np.concatenate(parts)
    assert samples.shape == synthesizer.synthesize(each.codes, each.reference, each.seed).shape
    steps, joins = np.abs(np.diff(samples)), np.cumsum([len(part) for part in parts])[:-1]
    assert len(joins) == 5
    near = np.concatenate([steps[join - 3 : join + 3] for join in joins])
    assert near.max() <= np.quantile(steps, 0.999)
