"""CAM++ in torch: FunASR's modules, exported as the published file was, give the same vectors, alone and batched."""

import importlib
import importlib.util
import sys
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

from deployments.encoder.campplus import DILATIONS, LAYERS, CamPlus
from deployments.encoder.campplus_weights import NotCamPlus, load_campplus
from deployments.encoder.sessions import SessionOptions, SpeakerSession, open_session
from tests.encoder.conftest import MODELS

LENGTHS = (230, 8, 199, 200, 201, 403)


@pytest.fixture(scope="module")
def components() -> Iterator[Any]:
    """FunASR's building blocks of CAM++, without the package's own import of everything."""
    spec = importlib.util.find_spec("funasr")
    assert spec is not None and spec.submodule_search_locations is not None
    package = types.ModuleType("funasr")
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules["funasr"] = package
    yield importlib.import_module("funasr.models.campplus.components")
    del sys.modules["funasr"]


@pytest.fixture(scope="module", params=[True, False], ids=["folded", "as_trained"])
def graph(components: Any, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrow CAM++ as ONNX, with batch norms folded into convolutions or left beside them."""
    path = tmp_path_factory.mktemp("campplus") / "campplus.onnx"
    network = _narrow_campplus(components).eval()
    mode = torch.onnx.TrainingMode.EVAL if request.param else torch.onnx.TrainingMode.PRESERVE
    axes = {"input": {0: "B", 1: "T"}, "output": {0: "B"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter that takes open lengths as they are is deprecated
        torch.onnx.export(
            network, (torch.randn(1, 230, 80),), path, dynamo=False, input_names=["input"], output_names=["output"],
            dynamic_axes=axes, opset_version=14, training=mode, do_constant_folding=request.param,
        )  # fmt: skip
    return path


def test_singles_and_batches_equal_the_graph(graph: Path) -> None:
    session = open_session(graph, SessionOptions())
    network = load_campplus(onnx.load(graph), session)
    fbanks = [torch.randn(frames, 80) for frames in LENGTHS]
    expected = SpeakerSession(session)(fbanks)
    for fbank, together, vector in zip(fbanks, network(fbanks), expected, strict=True):
        torch.testing.assert_close(together, vector, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(network([fbank])[0], vector, atol=1e-5, rtol=1e-5)


def test_another_network_is_told_apart() -> None:
    path = MODELS / "Step-Audio-EditX" / "CosyVoice-300M-25Hz" / "campplus.onnx"
    with pytest.raises(NotCamPlus, match="1 convolutions"):
        load_campplus(onnx.load(path), open_session(path, SessionOptions()))


def test_a_graph_with_the_same_layers_and_other_numbers_is_told_apart(graph: Path) -> None:
    model = onnx.load(graph)
    for node in model.graph.node:
        node.op_type = "Relu" if node.op_type == "Sigmoid" else node.op_type
    onnx.save(model, graph.with_name("other.onnx"))
    with pytest.raises(NotCamPlus, match="differs"):
        load_campplus(model, open_session(graph.with_name("other.onnx"), SessionOptions()))


def test_the_published_size_is_that_of_the_paper() -> None:
    with torch.device("meta"):
        count = sum(weight.numel() for weight in CamPlus().parameters())
    assert count == pytest.approx(7.2e6, rel=0.07)


def _narrow_campplus(parts: Any) -> nn.Module:
    """The published architecture, a quarter as wide."""
    channels, growth, width = 16, 4, 8
    head = parts.FCM(feat_dim=80)
    layers = [parts.TDNNLayer(head.out_channels, channels, 5, stride=2, padding=-1)]
    for count, dilation in zip(LAYERS, DILATIONS, strict=True):
        layers.append(parts.CAMDenseTDNNBlock(count, channels, growth, width, kernel_size=3, dilation=dilation))
        channels += count * growth
        layers.append(parts.TransitLayer(channels, channels // 2, bias=False))
        channels //= 2
    layers += [parts.get_nonlinear("batchnorm-relu", channels), parts.StatsPool()]
    layers.append(parts.DenseLayer(2 * channels, 192, config_str="batchnorm_"))
    network = nn.Sequential(_Swap(), head, *layers)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network


class _Swap(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)
