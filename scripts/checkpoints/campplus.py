"""campplus.onnx: CAM++, from Kaldi filter banks to 192 numbers that describe a speaker.

The published architecture as an exported graph: batch norms that follow a convolution are folded into it, those
before one are nodes, and the nodes' order is that of the network. Wang et al., CAM++, 2023: a convolutional head over
the spectrogram, three densely connected blocks of time-delay layers gated by their context, mean and deviation over
time, a projection.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import onnx

from scripts.checkpoints.graph import Graph, float_value
from scripts.checkpoints.presets import CamPlusSizes
from scripts.checkpoints.weights import BIAS_SPREAD, NORM_SPREAD, Source

BANDS = 80
EMBEDDING = 192
HEAD_CHANNELS = 32
HEAD_STRIDES = (2, 1, 2, 1)
LAYERS = (12, 24, 16)
DILATIONS = (1, 2, 2)
SEGMENT = 100  # frames that share a context


def write(folder: Path, sizes: CamPlusSizes, seed: int) -> None:
    """campplus.onnx: input (B, T, 80) -> output (B, 192)."""
    onnx.save(build(sizes, Source(seed, "campplus.onnx")), folder / "campplus.onnx")


def build(sizes: CamPlusSizes, source: Source) -> onnx.ModelProto:
    """The graph; it halves the frames once, and takes any number of them from 8."""
    return _Builder(sizes, source).build()


class _Builder:
    def __init__(self, sizes: CamPlusSizes, source: Source) -> None:
        self.sizes = sizes
        self.source = source
        self.graph = Graph()

    def build(self) -> onnx.ModelProto:
        g, channels = self.graph, self.sizes.channels
        x = self._head()
        x = self._relu(self._conv("/tdnn", x, (channels, HEAD_CHANNELS * BANDS // 8, 5), stride=[2]))
        for index, (layers, dilation) in enumerate(zip(LAYERS, DILATIONS, strict=True)):
            for layer in range(layers):
                x = self._dense(f"/block{index + 1}/tdnnd{layer + 1}", x, channels, dilation)
                channels += self.sizes.growth
            last = index == len(LAYERS) - 1  # a batch norm follows the last transition, folded into its bias
            x = self._relu(self._norm(f"/transit{index + 1}", x, channels))
            x = self._conv(f"/transit{index + 1}", x, (channels // 2, channels, 1), bias=last)
            channels //= 2
        x = g.node("Unsqueeze", "", self._statistics(self._relu(x)), g.constant("", [-1]))
        x = self._conv("/dense", x, (EMBEDDING, 2 * channels, 1))
        g.node("Squeeze", "", x, g.constant("", [-1]), output="output")
        return g.model([float_value("input", "B", "T", BANDS)], [float_value("output", "B", EMBEDDING)])

    def _head(self) -> str:
        """(B, T, 80) -> (B, 320, T): the spectrogram as an image, its bands halved three times."""
        g, wide = self.graph, HEAD_CHANNELS
        x = g.node("Unsqueeze", "/head", g.node("Transpose", "", "input", perm=[0, 2, 1]), g.constant("", [1]))
        x = self._relu(self._conv("/head/conv1", x, (wide, 1, 3, 3)))
        for index, stride in enumerate(HEAD_STRIDES):
            x = self._residual(f"/head/layer{index}", x, stride)
        x = self._relu(self._conv("/head/conv2", x, (wide, wide, 3, 3), stride=[2, 1]))
        return g.node("Reshape", "/head", x, g.constant("", [0, wide * BANDS // 8, -1]))

    def _residual(self, scope: str, x: str, stride: int) -> str:
        wide = HEAD_CHANNELS
        out = self._relu(self._conv(f"{scope}/conv1", x, (wide, wide, 3, 3), stride=[stride, 1]))
        out = self._conv(f"{scope}/conv2", out, (wide, wide, 3, 3))
        if stride > 1:
            x = self._conv(f"{scope}/shortcut", x, (wide, wide, 1, 1), stride=[stride, 1])
        return self._relu(self.graph.node("Add", scope, out, x))

    def _dense(self, scope: str, x: str, channels: int, dilation: int) -> str:
        """x with the layer's channels behind its own."""
        g, width, growth = self.graph, self.sizes.width, self.sizes.growth
        narrow = self._conv(f"{scope}/linear1", self._relu(self._norm(scope, x, channels)), (width, channels, 1))
        narrow = self._relu(narrow)
        local = self._conv(f"{scope}/local", narrow, (growth, width, 3), dilation=dilation, bias=False)
        context = self._context(scope, narrow)
        context = self._relu(self._conv(f"{scope}/context1", context, (width // 2, width, 1)))
        gate = g.node("Sigmoid", scope, self._conv(f"{scope}/context2", context, (growth, width // 2, 1)))
        return g.node("Concat", scope, x, g.node("Mul", scope, local, gate), axis=1)

    def _context(self, scope: str, x: str) -> str:
        """The mean over the clip plus the mean over each frame's segment."""
        g = self.graph
        whole = g.node("ReduceMean", scope, x, axes=[-1], keepdims=1)
        means = g.node("AveragePool", scope, x, kernel_shape=[SEGMENT], strides=[SEGMENT], ceil_mode=1)
        column = g.node("Unsqueeze", scope, means, g.constant("", [-1]))
        repeated = g.node("Expand", scope, column, g.constant("", [1, 1, 1, SEGMENT]))
        frames = g.node("Reshape", scope, repeated, g.constant("", [0, self.sizes.width, -1]))
        length = g.node("Gather", scope, g.node("Shape", scope, x), g.constant("", [-1]), axis=0)
        kept = g.node("Slice", scope, frames, g.constant("", [0]), length, g.constant("", [-1]))
        return g.node("Add", scope, whole, kept)

    def _statistics(self, x: str) -> str:
        """(B, C, T) -> (B, 2C): mean and unbiased deviation over time."""
        g = self.graph
        mean = g.node("ReduceMean", "/stats", x, axes=[-1], keepdims=1)
        squares = g.node("Pow", "/stats", g.node("Sub", "/stats", x, mean), g.constant("/stats", 2.0, dtype="float32"))
        total = g.node("ReduceSum", "/stats", squares, g.constant("", [-1]), keepdims=0)
        length = g.node("Gather", "/stats", g.node("Shape", "/stats", x), g.constant("", -1), axis=0)
        less = g.node("Sub", "/stats", length, g.constant("", 1))
        variance = g.node("Div", "/stats", total, g.node("Cast", "/stats", less, to=onnx.TensorProto.FLOAT))
        flat = g.node("Squeeze", "/stats", mean, g.constant("", [-1]))
        return g.node("Concat", "/stats", flat, g.node("Sqrt", "/stats", variance), axis=1)

    def _relu(self, x: str) -> str:
        return self.graph.node("Relu", "", x)

    def _norm(self, scope: str, x: str, channels: int) -> str:
        g, path = self.graph, f"{scope[1:].replace('/', '.')}.norm"
        values = [
            g.weight(f"{path}.weight", self.source.normal(channels, mean=1.0, std=NORM_SPREAD)),
            g.weight(f"{path}.bias", self.source.normal(channels, std=BIAS_SPREAD)),
            g.weight(f"{path}.running_mean", self.source.normal(channels, std=BIAS_SPREAD)),
            g.weight(f"{path}.running_var", self.source.normal(channels, mean=1.0, std=NORM_SPREAD)),
        ]
        return g.node("BatchNormalization", scope, x, *values, epsilon=1e-5)

    def _conv(
        self,
        scope: str,
        x: str,
        shape: tuple[int, ...],
        stride: Sequence[int] = (),
        dilation: int = 1,
        bias: bool = True,
    ) -> str:
        """A convolution that keeps the length but for its stride; shape (outputs, inputs, *kernel)."""
        path, kernel = scope[1:].replace("/", "."), list(shape[2:])
        gain = math.sqrt(2 / math.prod(shape[1:]))  # rectifiers follow
        weights = [self.graph.weight(f"{path}.weight", self.source.normal(*shape, std=gain))]
        if bias:
            weights.append(self.graph.weight(f"{path}.bias", self.source.normal(shape[0], std=BIAS_SPREAD)))
        return self.graph.conv(scope, x, weights, kernel, list(stride) or [1] * len(kernel), dilation)
