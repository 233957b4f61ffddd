"""The S3 tokenizer's weights, found in its ONNX file.

Exporting gave biases and norms their names but left the matrices anonymous (``onnx::MatMul_1672``): those are found
by the node that uses them.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from deployments.checkpoint import Shapes, load_onnx, mismatches
from deployments.encoder.s3 import BANDS, S3, S3Sizes
from deployments.errors import CheckpointError
from deployments.types import VQ06_CODES

CODEBOOK = "/quantizer/rq/model/layers.0/_codebook/MatMul"
HEAD_SIZE = 64  # of the published file; smaller graphs state their number of heads


@dataclass(frozen=True)
class Graph:
    """A file's initializers by name, where each MatMul node finds its matrix, and its constants by output."""

    path: Path
    initializers: dict[str, onnx.TensorProto]
    matrices: dict[str, str]
    model: onnx.ModelProto

    @property
    def shapes(self) -> Shapes:
        """Shapes by initializer name; matrices also by the name of their node."""
        shapes = {name: tuple(tensor.dims) for name, tensor in self.initializers.items()}
        return shapes | {node: shapes[name] for node, name in self.matrices.items()}

    def tensor(self, name: str) -> Tensor:
        """An initializer, by its name or that of the MatMul node that uses it, float32."""
        array = numpy_helper.to_array(self.initializers[self.matrices.get(name, name)])
        return torch.from_numpy(np.array(array, dtype=np.float32))


def open_graph(path: Path) -> Graph:
    """Read an ONNX file. Raises CheckpointError."""
    model = load_onnx(path)
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    matrices = {
        node.name: name
        for node in model.graph.node
        if node.op_type == "MatMul"
        for name in node.input
        if name in initializers
    }
    return Graph(path, initializers, matrices, model)


def read_sizes(graph: Graph) -> S3Sizes:
    """The network's sizes, from the graph's shapes. Raises CheckpointError if it is another network."""
    shapes = graph.shapes
    position, codebook = shapes.get("encoders.positional_embedding", ()), shapes.get(CODEBOOK, ())
    if len(position) != 2 or len(codebook) != 2:
        raise CheckpointError([f"{graph.path}: lacks encoders.positional_embedding or the matrix of {CODEBOOK}"])
    blocks = 0
    while f"encoders.blocks.{blocks}.attn_ln.weight" in shapes:
        blocks += 1
    return S3Sizes(position[1], _heads(graph, position[1]), blocks, position[0], codebook[1])


def load_s3(path: Path) -> S3:
    """The network with the file's weights, on the CPU. Raises CheckpointError."""
    graph = open_graph(path)
    problems = check_s3(graph)
    if problems:
        raise CheckpointError(problems)
    sizes = read_sizes(graph)
    with torch.device("meta"):
        model = S3(sizes)
    model.load_state_dict(_state(graph, sizes), strict=True, assign=True)
    model.offsets = model.codebook.square().sum(0)
    return model.eval().requires_grad_(False)


def check_s3(graph: Graph) -> list[str]:
    """Every tensor of the network that the graph lacks or holds in another shape."""
    sizes = read_sizes(graph)
    problems = mismatches(graph.path, expected_shapes(sizes), graph.shapes)
    if sizes.codes > VQ06_CODES:
        problems.append(f"{graph.path}: codebook has {sizes.codes} codes, expected at most {VQ06_CODES}")
    return problems


def expected_shapes(sizes: S3Sizes) -> Shapes:
    """What a graph of these sizes holds: initializers by name, matrices by node."""
    width = sizes.width
    shapes: Shapes = {"encoders.conv1.weight": (width, BANDS, 3), "encoders.conv2.weight": (width, width, 3)}
    shapes |= {"encoders.conv1.bias": (width,), "encoders.conv2.bias": (width,)}
    shapes |= {"encoders.positional_embedding": (sizes.positions, width), CODEBOOK: (width, sizes.codes)}
    for number in range(sizes.blocks):
        name, node = f"encoders.blocks.{number}", f"/blocks.{number}"
        vectors = ["attn_ln.weight", "attn_ln.bias", "mlp_ln.weight", "mlp_ln.bias"]
        vectors += ["attn.query.bias", "attn.value.bias", "attn.out.bias", "mlp.2.bias"]
        shapes |= {f"{name}.{vector}": (width,) for vector in vectors}
        shapes |= {f"{name}.mlp.0.bias": (4 * width,), f"{node}/mlp/mlp.0/MatMul": (width, 4 * width)}
        shapes |= {f"{node}/mlp/mlp.2/MatMul": (4 * width, width)}
        shapes |= {f"{node}/attn/{part}/MatMul": (width, width) for part in ("query", "key", "value", "out")}
    return shapes


def _state(graph: Graph, sizes: S3Sizes) -> dict[str, Tensor]:
    names = ("conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias", "positional_embedding")
    state = {name: graph.tensor(f"encoders.{name}") for name in names} | {"codebook": graph.tensor(CODEBOOK)}
    for number in range(sizes.blocks):
        state |= {f"blocks.{number}.{name}": value for name, value in _block(graph, number).items()}
    return state


def _block(graph: Graph, number: int) -> dict[str, Tensor]:
    name, node = f"encoders.blocks.{number}", f"/blocks.{number}"

    def matrix(part: str) -> Tensor:
        return graph.tensor(f"{node}/{part}/MatMul").T.contiguous()

    query_bias = graph.tensor(f"{name}.attn.query.bias")
    biases = [query_bias, torch.zeros_like(query_bias), graph.tensor(f"{name}.attn.value.bias")]  # keys have none
    norms = {f"{norm}.{part}": graph.tensor(f"{name}.{norm}.{part}") for norm in ("attn_ln", "mlp_ln")
             for part in ("weight", "bias")}  # fmt: skip
    return norms | {
        "qkv.weight": torch.cat([matrix(f"attn/{part}") for part in ("query", "key", "value")]),
        "qkv.bias": torch.cat(biases),
        "out.weight": matrix("attn/out"),
        "out.bias": graph.tensor(f"{name}.attn.out.bias"),
        "up.weight": matrix("mlp/mlp.0"),
        "up.bias": graph.tensor(f"{name}.mlp.0.bias"),
        "down.weight": matrix("mlp/mlp.2"),
        "down.bias": graph.tensor(f"{name}.mlp.2.bias"),
    }


def _heads(graph: Graph, width: int) -> int:
    """The number of heads, from the shape that the first block's queries are given."""
    nodes = {node.output[0]: node for node in graph.model.graph.node}
    query = next((n for n in graph.model.graph.node if n.name == "/blocks.0/attn/Reshape"), None)
    concat = nodes.get(query.input[1]) if query is not None else None
    for name in concat.input if concat is not None else ():
        source = nodes.get(name)
        if source is not None and source.op_type == "Constant":
            value = int(numpy_helper.to_array(source.attribute[0].t).reshape(-1)[0])
            if value > 1 and width % value == 0:
                return value
    return max(1, width // HEAD_SIZE)
