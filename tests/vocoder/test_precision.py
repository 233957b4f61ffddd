import numpy as np
import pytest
import torch

from deployments.checkpoint import Layout
from deployments.errors import StageError
from deployments.types import Reference
from deployments.vocoder import precision
from deployments.vocoder.model import Settings, Synthesizer
from tests.vocoder.helpers import CPU, Padded, small, streamed, utterance


def test_auto_is_exact_on_a_cpu_and_half_on_a_gpu() -> None:
    assert precision.choose("auto", CPU) == "float32"
    assert precision.choose("auto", torch.device("cuda", 0)) == "float16"
    assert precision.choose("tf32", CPU) == "tf32"
    with pytest.raises(StageError, match="float8"):
        precision.choose("float8", CPU)


def test_precisions_set_the_estimators_type_and_matrix_products() -> None:
    try:
        assert precision.apply("bfloat16") == (torch.bfloat16, torch.float32)
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        assert precision.apply("float32") == (torch.float32, torch.float32)
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize("graphs", [None, Padded(20_000_000)], ids=["plain", "graph-shaped"])
def test_half_precision_stays_close_for_clips_and_streams(
    layout: Layout, synthesizer: Synthesizer, reference: Reference, graphs: Padded | None
) -> None:
    half = small(layout, Settings(torch.bfloat16), graphs)
    each = utterance(reference, 14, 3, 8)
    with torch.inference_mode():
        (mel,), (exact,) = half.mels([each]), synthesizer.mels([each])
    assert mel.dtype == torch.float32
    assert (mel - exact).abs().mean() < 0.02
    whole, exact_stream = streamed(half, [each])[0], streamed(synthesizer, [each])[0]
    assert whole.dtype == np.float32 and whole.shape == exact_stream.shape
    assert np.abs(whole - exact_stream).mean() < 0.3 * np.abs(exact_stream).mean()
