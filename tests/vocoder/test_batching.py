"""Batches, and batches in the padded shapes that CUDA graphs want, give what their members give alone."""

import numpy as np
import pytest

from deployments.checkpoint import Layout
from deployments.types import Reference
from deployments.vocoder.batches import Budget
from deployments.vocoder.model import Settings, Synthesizer, Utterance
from tests.vocoder.helpers import Padded, cut, small, streamed, utterance


@pytest.fixture(scope="module")
def graphed(layout: Layout) -> Synthesizer:
    return small(layout, Settings(), Padded(20_000_000))


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
    tight = small(layout, Settings(budget=Budget(encode=1, solve=200, render=50)))
    for one, other in zip(tight.synthesize_batch(utterances), synthesizer.synthesize_batch(utterances), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_graph_shaped_clips_equal_plain_ones(
    synthesizer: Synthesizer, graphed: Synthesizer, utterances: list[Utterance]
) -> None:
    for single in utterances:
        padded = graphed.synthesize(single.codes, single.reference, single.seed)
        plain = synthesizer.synthesize(single.codes, single.reference, single.seed)
        np.testing.assert_allclose(padded, plain, atol=1e-4)


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
