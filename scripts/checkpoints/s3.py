"""The VQ06 graph: the S3 tokenizer as ONNX, in the published file's naming.

Readers find biases, norms and convolutions by initializer name, and the matrices, which are anonymous, by the node
that multiplies by them; so names of nodes are part of the format.
"""

import onnx

from deployments.checkpoint import Layout
from deployments.types import VQ06_CODES
from scripts.checkpoints.graph import Graph, float_value, int_value
from scripts.checkpoints.presets import S3Sizes
from scripts.checkpoints.weights import BIAS_SPREAD, NORM_SPREAD, Source

MELS = 128
POSITIONS = 1500
FIRST_MATRIX = 1599  # so that six blocks put the codebook at onnx::MatMul_1672, as published
CODEBOOK = "/quantizer/rq/model/layers.0/_codebook"
FLOAT, INT32, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT32, onnx.TensorProto.INT64


def write(layout: Layout, sizes: S3Sizes, seed: int, device: str) -> None:
    """speech_tokenizer_v1.onnx."""
    layout.s3.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(build(sizes, Source(seed, "speech_tokenizer_v1.onnx", device)), layout.s3)


def build(sizes: S3Sizes, source: Source) -> onnx.ModelProto:
    """feats (1, 128, T) float32, feats_length (1,) int32 -> indices (1, ceil(ceil(T / 2) / 2)) int64."""
    return _Builder(sizes, source).build()


class _Builder:
    def __init__(self, sizes: S3Sizes, source: Source) -> None:
        self.sizes = sizes
        self.source = source
        self.graph = Graph()
        self.matrix_number = FIRST_MATRIX

    def build(self) -> onnx.ModelProto:
        x, bias = self._front()
        for index in range(self.sizes.blocks):
            x = self._attention(index, x, bias)
            x = self._mlp(index, x)
        self._quantize(x)
        inputs = [float_value("feats", 1, MELS, "T"), int_value("feats_length", 1, bits=32)]
        return self.graph.model(inputs, [int_value("indices", 1, "codes")])

    def _front(self) -> tuple[str, str]:
        """Two masked convolutions of stride 2 and the positions: (1, frames, width), and attention's bias."""
        g, length = self.graph, "feats_length"
        x = g.node("Mul", "", "feats", self._as_channels(self._mask("feats", 2, length)))
        x = self._conv("conv1", MELS, x)
        length = self._halved(length)
        x = g.node("Mul", "", x, self._as_channels(self._mask(x, 2, length)))
        x = self._conv("conv2", self.sizes.width, x)
        x = g.node("Transpose", "", x, perm=[0, 2, 1])
        mask = self._mask(x, 1, self._halved(length))
        return self._add_positions(x), self._attention_bias(mask)

    def _mask(self, x: str, axis: int, length: str) -> str:
        """bool (1, frames): True where there is sound, False in the padding."""
        g = self.graph
        frames = g.node("Gather", "", g.node("Shape", "", x), g.constant("", axis), axis=0)
        steps = g.node("Range", "", g.constant("", 0), g.node("Cast", "", frames, to=INT64), g.constant("", 1))
        row = g.node("Unsqueeze", "", steps, g.constant("", [0]))
        column = g.node("Unsqueeze", "", length, g.constant("", [1]))
        return g.node("Less", "", row, g.node("Cast", "", column, to=INT64))

    def _as_channels(self, mask: str) -> str:
        """(1, frames) -> float (1, 1, frames)."""
        g = self.graph
        return g.node("Cast", "", g.node("Unsqueeze", "", mask, g.constant("", [1])), to=FLOAT)

    def _halved(self, length: str) -> str:
        """Frames after a convolution of stride 2: (length - 1) // 2 + 1."""
        g = self.graph
        less = g.node("Sub", "", length, g.constant("", 1, dtype="int32"))
        half = g.node("Div", "", less, g.constant("", 2, dtype="int32"))
        return g.node("Add", "", half, g.constant("", 1, dtype="int32"))

    def _conv(self, name: str, inputs: int, x: str) -> str:
        g, width = self.graph, self.sizes.width
        weight = g.weight(f"encoders.{name}.weight", self.source.matrix(inputs * 3, width, inputs, 3))
        bias = g.weight(f"encoders.{name}.bias", self.source.normal(width, std=BIAS_SPREAD))
        return self._gelu("", g.conv(f"/{name}", x, [weight, bias], kernel=[3], strides=[2]))

    def _gelu(self, scope: str, x: str) -> str:
        """x * (erf(x / sqrt(2)) + 1) / 2."""
        g = self.graph
        erf = g.node("Erf", scope, g.node("Div", scope, x, g.constant(scope, 2**0.5, dtype="float32")))
        product = g.node("Mul", scope, x, g.node("Add", scope, erf, g.constant(scope, 1.0, dtype="float32")))
        return g.node("Mul", scope, product, g.constant(scope, 0.5, dtype="float32"))

    def _add_positions(self, x: str) -> str:
        g = self.graph
        table = g.weight("encoders.positional_embedding", self.source.normal(POSITIONS, self.sizes.width, std=0.5))
        end = self._size("", x, 1)
        rows = g.node("Slice", "", table, g.constant("", [0]), end, g.constant("", [0]), g.constant("", [1]))
        return g.node("Add", "", x, rows)

    def _attention_bias(self, mask: str) -> str:
        """(1, 1, 1, frames): 0 where there is sound, -1e10 in the padding."""
        g = self.graph
        wide = g.node("Unsqueeze", "", g.node("Unsqueeze", "", mask, g.constant("", [1])), g.constant("", [2]))
        one = g.constant("", 1.0, dtype="float32")
        padding = g.node("Sub", "", one, g.node("Cast", "", wide, to=FLOAT))
        return g.node("Mul", "", padding, g.constant("", -1e10, dtype="float32"))

    def _attention(self, index: int, x: str, bias: str) -> str:
        """x + attention(norm(x)); queries and keys are each scaled by head_dim ** -0.25."""
        g, scope, width = self.graph, f"/blocks.{index}/attn", self.sizes.width
        first = self.matrix_number
        normed = self._norm(index, "attn_ln", x)
        batch, frames = (self._size(scope, normed, axis) for axis in (0, 1))
        query = self._linear(index, "attn/query", normed, width, width, first)
        shapes = [self._head_shape(scope, batch, frames) for _ in range(3)]
        query = self._scale(scope, self._heads(scope, query, shapes[0], [0, 2, 1, 3]))
        key = self._linear(index, "attn/key", normed, width, width, first + 7, bias=False)
        key = self._scale(scope, self._heads(scope, key, shapes[1], [0, 2, 3, 1]))
        value = self._linear(index, "attn/value", normed, width, width, first + 8)
        value = self._heads(scope, value, shapes[2], [0, 2, 1, 3])
        scores = g.node("Add", scope, g.node("MatMul", scope, query, key), bias)
        context = g.node("MatMul", scope, g.node("Softmax", scope, scores, axis=-1), value)
        joined = g.node("Transpose", scope, context, perm=[0, 2, 1, 3])
        joined = g.node("Reshape", scope, joined, g.constant(scope, [0, 0, width]))
        out = self._linear(index, "attn/out", joined, width, width, first + 9)
        return g.node("Add", f"/blocks.{index}", x, out)

    def _size(self, scope: str, x: str, axis: int) -> str:
        """Length of an axis, as a vector of one."""
        g = self.graph
        size = g.node("Gather", scope, g.node("Shape", scope, x), g.constant(scope, axis), axis=0)
        return g.node("Unsqueeze", scope, size, g.constant("", [0]))

    def _head_shape(self, scope: str, batch: str, frames: str) -> str:
        """[batch, frames, heads, -1], as a tensor."""
        g = self.graph
        heads, rest = g.constant(scope, [self.sizes.heads]), g.constant(scope, [-1])
        return g.node("Concat", scope, batch, frames, heads, rest, axis=0)

    def _heads(self, scope: str, x: str, shape: str, order: list[int]) -> str:
        return self.graph.node("Transpose", scope, self.graph.node("Reshape", scope, x, shape), perm=order)

    def _scale(self, scope: str, x: str) -> str:
        factor = (self.sizes.width // self.sizes.heads) ** -0.25
        return self.graph.node("Mul", scope, x, self.graph.constant(scope, factor, dtype="float32"))

    def _mlp(self, index: int, x: str) -> str:
        """x + mlp(norm(x)); ends the numbering of this block's matrices."""
        width, first = self.sizes.width, self.matrix_number
        hidden = self._linear(index, "mlp/mlp.0", self._norm(index, "mlp_ln", x), width, 4 * width, first + 10)
        hidden = self._gelu(f"/blocks.{index}/mlp/mlp.1", hidden)
        out = self._linear(index, "mlp/mlp.2", hidden, 4 * width, width, first + 11)
        self.matrix_number += 12
        return self.graph.node("Add", f"/blocks.{index}", x, out)

    def _linear(self, index: int, name: str, x: str, inputs: int, outputs: int, number: int, bias: bool = True) -> str:
        g, scope = self.graph, f"/blocks.{index}/{name}"
        weight = g.weight(f"onnx::MatMul_{number}", self.source.matrix(inputs, inputs, outputs))
        result = g.node("MatMul", scope, x, weight)
        if not bias:
            return result
        path = f"encoders.blocks.{index}.{name.replace('/mlp.', '.').replace('/', '.')}.bias"
        return g.node("Add", scope, g.weight(path, self.source.normal(outputs, std=BIAS_SPREAD)), result)

    def _norm(self, index: int, name: str, x: str) -> str:
        """Layer norm in the exporter's elementary steps."""
        g, scope, path = self.graph, f"/blocks.{index}/{name}", f"encoders.blocks.{index}.{name}"
        width = self.sizes.width
        centred = g.node("Sub", scope, x, g.node("ReduceMean", scope, x, axes=[-1]))
        squared = g.node("Pow", scope, centred, g.constant(scope, 2.0, dtype="float32"))
        variance = g.node("ReduceMean", scope, squared, axes=[-1])
        floored = g.node("Add", scope, variance, g.constant(scope, 1e-5, dtype="float32"))
        x = g.node("Div", scope, centred, g.node("Sqrt", scope, floored))
        x = g.node("Mul", scope, x, g.weight(f"{path}.weight", self.source.normal(width, mean=1.0, std=NORM_SPREAD)))
        return g.node("Add", scope, x, g.weight(f"{path}.bias", self.source.normal(width, std=BIAS_SPREAD)))

    def _quantize(self, x: str) -> None:
        """Nearest code to the vector of length one: argmax of -(|x|^2 - 2 x c + |c|^2)."""
        g, scope = self.graph, CODEBOOK
        codes = self.source.normal(self.sizes.width, VQ06_CODES)
        codebook = g.weight(f"onnx::MatMul_{self.matrix_number + 1}", codes / codes.norm(dim=0))
        length = g.node("ReduceL2", "", x, axes=[-1], keepdims=1)
        unit = g.node("Div", "", x, g.node("Clip", "", length, g.constant("", 1e-12, dtype="float32")))
        two = g.constant(scope, 2.0, dtype="float32")
        square = g.node("ReduceSum", scope, g.node("Pow", scope, unit, two), g.constant(scope, [-1]), keepdims=1)
        product = g.node("MatMul", scope, g.node("Mul", scope, unit, two), codebook)
        size = g.node("ReduceSum", scope, g.node("Pow", scope, codebook, two), g.constant(scope, [0]), keepdims=1)
        distance = g.node("Add", scope, g.node("Sub", scope, square, product), size)
        g.node("ArgMax", scope, g.node("Neg", scope, distance), output="indices", axis=-1, keepdims=0)
