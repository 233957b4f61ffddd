"""The linear layers' kernels against each other, one by one.

They are timed inside CUDA graphs over copies of the weights that together exceed the L2 cache, as the weights of a
whole model do.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from deployments.llm.kernels.elementwise import matvec_kernel
from deployments.llm.kernels.fusion import Normed, Ways, Workspace
from deployments.llm.kernels.linear import Launch, QuantisedLinear, plan
from deployments.llm.step1 import Step1Config
from scripts.benchmarks.llm_models import CUDA, random_int4, random_matrix, random_nf4

Multiply = Callable[[torch.Tensor], torch.Tensor]
ROTATION_BYTES = 200e6
"""Several times the L2 cache of any GPU."""


@dataclass(frozen=True)
class Timed:
    """One kernel on one matrix."""

    matrix: str
    rows: int
    kernel: str
    microseconds: float


def compare_kernels(config: Step1Config) -> list[dict[str, Any]]:
    """Every kernel on every matrix of a layer; the table comes last."""
    hidden, grouped = config.hidden_size, config.num_attention_groups * config.head_dim
    matrices = {
        "qkv": (hidden + 2 * grouped, hidden),
        "o": (hidden, hidden),
        "gate_up": (2 * config.intermediate_size, hidden),
        "down": (hidden, config.intermediate_size),
    }
    timed: list[Timed] = []
    for name, (out, inner) in matrices.items():
        for rows in (1, 8, 32):
            x = torch.randn(rows, inner, device=CUDA, dtype=torch.bfloat16)
            for kernel, microseconds in candidates(out, inner, x):
                timed.append(Timed(name, rows, kernel, microseconds))
                print(f"{name:8} {rows:3} {kernel:44} {microseconds:8.1f}", flush=True)
        torch.cuda.empty_cache()
    print_best(timed, list(matrices))
    return [vars(one) for one in timed]


def candidates(out: int, inner: int, x: torch.Tensor) -> Iterator[tuple[str, float]]:
    """Names and microseconds of the kernels that can multiply x (rows, inner) by a matrix (out, inner)."""
    matrices = [random_matrix(out, inner, CUDA, torch.bfloat16) for _ in range(copies(out * inner * 2))]
    yield "bf16 cuBLAS", time_graph([partial(torch.nn.functional.linear, weight=m) for m in matrices], x)
    if len(x) == 1:
        for rows, block, warps in itertools.product((1, 2, 4), (512, 1024), (4,)):
            if block <= inner and (rows * block <= 4096):
                calls: list[Multiply] = [matvec_call(m, rows, block, warps) for m in matrices]
                yield f"bf16 matvec rows {rows} block {block} warps {warps}", time_graph(calls, x)
    del matrices
    torch.cuda.empty_cache()
    workspace = Workspace(CUDA, Ways(overlap=False), 1 << 23)
    many = copies(out * inner // 2)
    for kind in ("int4", "int4 asymmetric", "nf4"):
        layers = [QuantisedLinear(random_quantised(kind, out, inner), workspace) for _ in range(many)]
        default = plan(out, inner, len(x))
        for launch in [default] if kind == "int4 asymmetric" else launches(default, out, inner):
            calls = [partial(multiply, layer, launch=launch) for layer in layers]
            chosen = " (planned)" if launch == default else ""
            shape = f"m {launch.block_m} n {launch.block_n} split {launch.split} w {launch.warps} s {launch.stages}"
            yield f"{kind} {shape}{chosen}", time_graph(calls, x)
    yield from torch_int4(out, inner, x, many)


def random_quantised(kind: str, out: int, inner: int) -> Any:
    """A 4-bit weight of a kind."""
    return random_nf4(out, inner, CUDA) if kind == "nf4" else random_int4(out, inner, CUDA, kind == "int4")


def launches(default: Launch, out: int, inner: int) -> list[Launch]:
    """The planned launch and its neighbours."""
    found = {default: None}
    for block_n, split, warps, stages in itertools.product((64, 128), (1, 2, 4, 8), (4,), (4,)):
        if split * 2 <= inner // 128 and (out // block_n) * split >= 96:
            found[Launch(default.block_m, block_n, split, warps, stages)] = None
    return list(found)


def multiply(layer: QuantisedLinear, x: torch.Tensor, launch: Launch) -> torch.Tensor:
    """A plain 4-bit product."""
    return layer.fused(Normed(x), launch=launch)[0]


def matvec_call(matrix: torch.Tensor, rows: int, block: int, warps: int) -> Multiply:
    """One configuration of the kernel for a single row."""
    out, inner = matrix.shape

    def call(x: torch.Tensor) -> torch.Tensor:
        y = torch.empty(1, out, dtype=x.dtype, device=x.device)
        plain = {"GATED": False, "LINES": 1, "PREFETCH": False, "OVERLAP": False}
        shape = {"ROWS": rows, "BLOCK": block, "num_warps": warps}
        matvec_kernel[(-(-out // rows),)](x, matrix, y, out, inner, **plain, **shape)
        return y

    return call


def torch_int4(out: int, inner: int, x: torch.Tensor, many: int) -> Iterator[tuple[str, float]]:
    """torch's own int4 product, where this build has it."""
    try:
        packed = [
            torch._convert_weight_to_int4pack(
                torch.randint(256, (out, inner // 2), dtype=torch.uint8, device=CUDA), innerKTiles=8
            )
            for _ in range(many)
        ]
        scales = torch.rand(inner // 128, out, 2, device=CUDA).bfloat16()
        calls = [partial(torch._weight_int4pack_mm, mat2=w, qGroupSize=128, qScaleAndZeros=scales) for w in packed]
        yield "int4 torch _weight_int4pack_mm", time_graph(calls, x)
    except (RuntimeError, AttributeError) as error:
        print(f"torch's int4 product is not available: {str(error).splitlines()[0]}")


def copies(size: float) -> int:
    """How many copies of a matrix exceed the L2 cache."""
    return max(2, int(ROTATION_BYTES // size) + 1)


def time_graph(calls: Sequence[Multiply], x: torch.Tensor, repeats: int = 20) -> float:
    """Microseconds of one call, each call in turn inside a captured graph."""
    calls[0](x)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call(x)
    graph.replay()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(repeats):
        graph.replay()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) * 1e3 / repeats / len(calls)


def print_best(timed: list[Timed], matrices: list[str]) -> None:
    """The best of each family per matrix and batch, in microseconds, and a layer's sum."""
    families = ["bf16 cuBLAS", "bf16 matvec", "int4 torch", "int4 asymmetric", "int4 m", "nf4 m"]
    print(f"\n{'best of a family':20} {'rows':>4} " + " ".join(f"{name:>9}" for name in matrices) + "       sum")
    for family, rows in itertools.product(families, (1, 8, 32)):
        best = [
            min((one for one in timed if one.kernel.startswith(family) and (one.rows, one.matrix) == (rows, name)),
                key=lambda one: one.microseconds, default=None)
            for name in matrices
        ]  # fmt: skip
        if all(best):
            times = [one.microseconds for one in best if one]
            print(f"{family:20} {rows:4} " + " ".join(f"{time:9.1f}" for time in times) + f" {sum(times):9.1f}")
            print(f"{'':25} " + "; ".join(one.kernel[len(family) :].strip() for one in best if one))
