"""On a GPU: the goldens again, by every way to run VQ02's layers, and batches that equal the CPU's codes."""

import numpy as np
import pytest
import torch

from deployments.checkpoint import Layout
from deployments.encoder.encoder import Encoder
from deployments.encoder.graphs import LayerGraphs
from deployments.encoder.load import load
from deployments.encoder.options import EncoderOptions
from deployments.types import Clip
from tests.encoder.conftest import Tensors, noise

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
WAYS = [EncoderOptions(fused=fused, cuda_graphs=graphs) for fused in (True, False) for graphs in (True, False)]


@pytest.mark.parametrize("options", [*WAYS, EncoderOptions(speaker_backend="torch", s3_backend="onnx")])
def test_every_way_gives_the_golden_numbers(
    options: EncoderOptions, layout: Layout, speech: Clip, pipeline_goldens: Tensors
) -> None:
    reference = load(layout, torch.device("cuda", 0), options).encode_batch([speech])[0]
    np.testing.assert_array_equal(reference.codes, pipeline_goldens["mixed"])
    np.testing.assert_allclose(reference.mel, pipeline_goldens["mel"][0], atol=1e-3)
    np.testing.assert_allclose(reference.speaker, pipeline_goldens["speaker"][0], atol=1e-3)


def test_mixed_batches_in_any_order_give_the_codes_of_the_cpu(layout: Layout, encoder: Encoder) -> None:
    clips = [
        noise(seconds, rate, seed=i) for i, (seconds, rate) in enumerate([(0.5, 8000), (3.3, 44_100), (31, 16_000)])
    ]
    on_gpu = load(layout, torch.device("cuda", 0))
    assert isinstance(on_gpu.vq02.layers, LayerGraphs)
    for batch in (clips, clips[::-1], clips * 3):
        for found, expected in zip(on_gpu.encode_batch(batch), encoder.encode_batch(batch), strict=True):
            np.testing.assert_array_equal(found.codes, expected.codes)
