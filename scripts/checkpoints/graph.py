"""Writing an ONNX graph node by node, named as torch's exporter names it: /scope/Op, /scope/Op_1, ..."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

OPSET = 14
IR_VERSION = 7


class Graph:
    """Nodes and weights of a graph under construction; every call returns the name of what it adds."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._used: Counter[str] = Counter()

    def weight(self, name: str, value: torch.Tensor) -> str:
        """An initializer."""
        self.weights.append(numpy_helper.from_array(value.contiguous().numpy(), name))
        return name

    def constant(self, scope: str, value: float | list[int], dtype: str = "int64") -> str:
        """A Constant node; numbers become scalars, lists vectors."""
        tensor = numpy_helper.from_array(np.asarray(value, dtype=dtype))
        return self.node("Constant", scope, value=tensor)

    def node(self, op: str, scope: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """A node with one output."""
        path = f"{scope}/{op}"
        count = self._used[path]
        self._used[path] += 1
        name = f"{path}_{count}" if count else path
        result = output or f"{name}_output_0"
        self.nodes.append(helper.make_node(op, list(inputs), [result], name=name, **attributes))
        return result

    def conv(
        self, scope: str, x: str, weights: Sequence[str], kernel: list[int], strides: list[int], dilation: int = 1
    ) -> str:
        """A Conv node, padded so that only its strides shorten; ``weights`` are its weight and, if any, its bias."""
        pads = [dilation * (size // 2) for size in kernel] * 2
        window = {"kernel_shape": kernel, "strides": strides, "pads": pads, "dilations": [dilation] * len(kernel)}
        return self.node("Conv", scope, x, *weights, output="", group=1, **window)

    def model(self, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]) -> onnx.ModelProto:
        """The finished, checked model."""
        graph = helper.make_graph(self.nodes, "main_graph", inputs, outputs, self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        onnx.checker.check_model(model)
        return model


def float_value(name: str, *shape: int | str) -> onnx.ValueInfoProto:
    """A float32 input or output; names are dimensions that vary."""
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def int_value(name: str, *shape: int | str, bits: int = 64) -> onnx.ValueInfoProto:
    """An integer input or output."""
    return helper.make_tensor_value_info(name, TensorProto.INT64 if bits == 64 else TensorProto.INT32, shape)
