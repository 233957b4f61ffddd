"""campplus.onnx: Kaldi filter banks to 192 numbers that describe a speaker.

The published network is a D-TDNN of some 7 million parameters, read through ONNX Runtime and never by name, so a
small network with the same inputs and outputs stands for it: a convolution, pooling over time, a projection.
"""

from pathlib import Path

import onnx

from scripts.checkpoints.graph import Graph, float_value
from scripts.checkpoints.weights import BIAS_SPREAD, Source

BANDS = 80
EMBEDDING = 192


def write(folder: Path, channels: int, seed: int) -> None:
    """campplus.onnx: input (B, T, 80) -> output (B, 192)."""
    source, g = Source(seed, "campplus.onnx"), Graph()
    weight = g.weight("head.weight", source.matrix(BANDS * 5, channels, BANDS, 5))
    bias = g.weight("head.bias", source.normal(channels, std=BIAS_SPREAD))
    bands = g.node("Transpose", "", "input", perm=[0, 2, 1])
    frames = g.node("Relu", "", g.conv("/head", bands, weight, bias))
    pooled = g.node("Concat", "", _pool(g, "ReduceMean", frames), _pool(g, "ReduceMax", frames), axis=1)
    projection = g.weight("dense.weight", source.matrix(2 * channels, EMBEDDING, 2 * channels))
    offset = g.weight("dense.bias", source.normal(EMBEDDING, std=BIAS_SPREAD))
    g.node("Gemm", "/dense", pooled, projection, offset, output="output", transB=1)
    model = g.model([float_value("input", "B", "T", BANDS)], [float_value("output", "B", EMBEDDING)])
    onnx.save(model, folder / "campplus.onnx")


def _pool(graph: Graph, op: str, frames: str) -> str:
    return graph.node(op, "", frames, axes=[2], keepdims=0)
