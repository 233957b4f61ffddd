"""CAM++'s weights out of its ONNX graph.

Exporting folds batch norms and leaves matrices without names, but keeps the order in which the network ran: the
graph's convolutions and batch norms, taken one after another, are the network's layers. What does not fit that
order, or gives other numbers than the graph, is not CAM++ and stays with ONNX Runtime.
"""

import logging
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import numpy_helper
from torch import Tensor

from deployments.encoder.campplus import BANDS, Affine, CamPlus, DenseLayer

logger = logging.getLogger(__name__)
PROBE_FRAMES = 230
TOLERANCE = 1e-4


class NotCamPlus(Exception):
    """A graph is another network."""


@dataclass(frozen=True)
class Layer:
    """A node's weights: of a convolution (weight, bias or None), or a batch norm's (scale, shift)."""

    op: str
    weight: Tensor
    bias: Tensor | None


def load_campplus(model: onnx.ModelProto, session: onnxruntime.InferenceSession) -> CamPlus:
    """The network with the graph's weights, after a comparison with the session. Raises NotCamPlus."""
    layers = _layers(model.graph)
    network = CamPlus(*_sizes(layers)).eval().requires_grad_(False)
    _fill(network, layers)
    probe = torch.randn(PROBE_FRAMES, BANDS, generator=torch.Generator().manual_seed(0))
    expected = session.run(None, {session.get_inputs()[0].name: probe[None].numpy()})[0].reshape(-1)
    difference = float(np.abs(network([probe])[0].numpy() - expected).max())
    if not difference <= TOLERANCE * max(1.0, float(np.abs(expected).max())):
        raise NotCamPlus(f"it differs from its graph by {difference:.2g}")
    return network


def _layers(graph: onnx.GraphProto) -> list[Layer]:
    """Every convolution and batch norm in the order of execution."""
    held = {tensor.name: tensor for tensor in graph.initializer}
    held |= {
        n.output[0]: n.attribute[0].t for n in graph.node if n.op_type == "Constant" and n.attribute[0].HasField("t")
    }
    held |= {n.output[0]: held[n.input[0]] for n in graph.node if n.op_type == "Identity" and n.input[0] in held}
    layers = []
    for node in graph.node:
        if node.op_type not in ("Conv", "BatchNormalization"):
            continue
        if not all(name in held for name in node.input[1:]):
            raise NotCamPlus(f"the weights of {node.name} are computed")
        values = [torch.from_numpy(np.array(numpy_helper.to_array(held[name]))) for name in node.input[1:]]
        layers.append(_norm(node, *values) if len(values) == 4 else Layer("Conv", values[0], _second(values)))
    return layers


def _norm(node: onnx.NodeProto, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Layer:
    epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
    scale = weight / (variance + epsilon).sqrt()
    return Layer("BatchNormalization", scale, bias - mean * scale)


def _second(values: list[Tensor]) -> Tensor | None:
    return values[1] if len(values) > 1 else None


def _sizes(layers: list[Layer]) -> tuple[int, int, int, int]:
    """Channels, growth, width and size of the speaker vector, from the shapes of the layers that have them."""
    convolutions = [layer.weight for layer in layers if layer.op == "Conv"]
    if len(convolutions) != 225:
        raise NotCamPlus(f"it has {len(convolutions)} convolutions, CAM++ 225")
    tdnn, narrow, local, dense = (convolutions[index] for index in (12, 13, 14, -1))
    return len(tdnn), len(local), len(narrow), len(dense)


def _fill(network: CamPlus, layers: list[Layer]) -> None:
    """Give every layer of the network the next weights of the graph."""
    queue = deque(layers)
    for module in _in_order(network):
        if not queue:
            raise NotCamPlus("it has too few layers")
        if isinstance(module, Affine):
            _assign(module, queue.popleft(), "BatchNormalization")
            continue
        layer = queue.popleft()
        if layer.bias is None and module.bias is not None and queue and queue[0].op == "BatchNormalization":
            norm = queue.popleft()
            scale = norm.weight.reshape(-1, *[1] * (layer.weight.dim() - 1))
            layer = Layer("Conv", layer.weight * scale, norm.bias)
        _assign(module, layer, "Conv")
    if queue:
        raise NotCamPlus("it has too many layers")


def _assign(module: Any, layer: Layer, op: str) -> None:
    weight, bias = module.weight, module.bias
    fits = layer.op == op and layer.weight.shape == weight.shape
    if not fits or (bias is None) != (layer.bias is None):
        raise NotCamPlus(f"a {layer.op} of {list(layer.weight.shape)} is where a {op} of {list(weight.shape)} belongs")
    weight.data.copy_(layer.weight)
    if layer.bias is not None:
        bias.data.copy_(layer.bias)


def _in_order(network: Any) -> list[Any]:
    """The network's layers in the order in which they run."""
    order = [network.head_in]
    for block in network.head:
        order += [module for module in (block.first, block.second, block.shortcut) if module is not None]
    order += [network.head_out, network.tdnn]
    for dense, transit in zip(network.blocks, network.transits, strict=True):
        for layer in dense:
            order += _dense_order(layer)
        order += [transit[0], transit[2]]
    return [*order, network.dense]


def _dense_order(layer: DenseLayer) -> list[Any]:
    return [layer.norm, layer.narrow, layer.local, layer.context1, layer.context2]
