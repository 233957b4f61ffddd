"""VQ02's network as ONNX: all blocks of all clips in one graph, for ``encoder.options.vq02_graph``.

``python -m scripts.export_vq02 --models MODELS --out vq02.onnx`` writes it and prints how far it is from torch and how
long both take. TensorRT and CUDA are ONNX Runtime's providers; which one runs is ``onnx_providers`` in the config.
"""

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from deployments.checkpoint import Layout
from deployments.encoder import paraformer
from deployments.encoder.blocks import Layers, Plan, make_plan, run_layers
from deployments.encoder.frontend import ROW_SIZE
from deployments.encoder.sessions import BlocksSession, SessionOptions, open_session

INPUTS = ("x", "valid", "window", "seen")
OPSET = 17
ROWS = 167  # 10 s


class Exported(nn.Module):
    """run_layers as a module, which is what the exporter takes."""

    def __init__(self, encoder: paraformer.SanmEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor, valid: Tensor, window: Tensor, seen: Tensor) -> Tensor:
        """(blocks, 9, 560) -> (blocks, 9, size)."""
        return run_layers(self.encoder, x, valid, window, seen)


def export(encoder: paraformer.SanmEncoder, path: Path) -> None:
    """Write the graph; its number of blocks is open."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter that keeps one open size through a gather is deprecated
        torch.onnx.export(
            Exported(encoder),
            example([ROWS, 9]),
            path,
            dynamo=False,
            input_names=list(INPUTS),
            output_names=["hidden"],
            dynamic_axes={name: {0: "blocks"} for name in (*INPUTS, "hidden")},
            opset_version=OPSET,
        )


def example(counts: list[int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Inputs of clips of so many rows of noise."""
    plan: Plan = make_plan(counts)
    x = torch.randn(*plan.inputs.shape, ROW_SIZE, generator=torch.Generator().manual_seed(0))
    return x, plan.valid, plan.window, plan.seen


def milliseconds(action: Callable[[], object], repeats: int = 5) -> float:
    """The shortest of some runs."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        times.append((time.perf_counter() - start) * 1000)
    return min(times)


@torch.inference_mode()
def main(argv: list[str]) -> None:
    """Export, compare, time."""
    parser = argparse.ArgumentParser(prog="scripts.export_vq02")
    parser.add_argument("--models", type=Path, required=True, help="models folder in the published layout")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    parser.add_argument("--providers", nargs="*", default=(), help="ONNX Runtime's providers; default: the CPU")
    arguments = parser.parse_args(argv)
    encoder = paraformer.load(Layout(arguments.models).paraformer)
    export(encoder, arguments.out)
    options = SessionOptions(tuple(arguments.providers), torch.get_num_threads())
    session, layers = BlocksSession(open_session(arguments.out, options)), Layers(encoder)
    inputs = example([ROWS])
    difference = (session(*inputs) - layers(*inputs)).abs().max().item()
    print(f"largest difference from torch: {difference:.2g}")
    print(f"10 s of audio: torch {milliseconds(lambda: layers(*inputs)):.1f} ms on {torch.get_num_threads()} threads,")
    print(f"ONNX Runtime {milliseconds(lambda: session(*inputs)):.1f} ms on {session.session.get_providers()}")


if __name__ == "__main__":
    main(sys.argv[1:])
