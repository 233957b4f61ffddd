"""The fused kernel gives what FunASR's modules give: on a GPU, or in Triton's interpreter where triton is installed."""

import os

import pytest
import torch

from deployments.encoder import paraformer
from deployments.encoder.blocks import Layers, make_plan
from deployments.encoder.frontend import ROW_SIZE

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported
pytest.importorskip("triton", reason="triton comes with torch for CUDA")
SIZES = {"output_size": 64, "attention_heads": 4, "linear_units": 128, "num_blocks": 3, "kernel_size": 11}


@pytest.mark.parametrize("counts", [[1], [4, 9, 2], [40, 7, 23]])
def test_fused_layers_equal_the_plain_ones(counts: list[int]) -> None:
    from deployments.encoder.kernels import FusedLayers

    torch.manual_seed(0)
    encoder = paraformer.build(SIZES | {"sanm_shfit": 0}, DEVICE)
    for name, tensor in encoder.state_dict().items():
        tensor.normal_(1.0 if "norm" in name and name.endswith("weight") else 0.0, 0.2)
    plan = make_plan(counts).to(torch.device(DEVICE))
    inputs = (torch.randn(*plan.inputs.shape, ROW_SIZE, device=DEVICE), plan.valid, plan.window, plan.seen)
    with torch.inference_mode():
        expected, found = (
            layers(*inputs).flatten(0, 1)[plan.outputs] for layers in (Layers(encoder), FusedLayers(encoder))
        )
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
