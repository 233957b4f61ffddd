"""The language model's GPU kernels: against plain torch, against each other, and within a step.

Kernels are timed inside CUDA graphs over copies of the weights that together exceed the L2 cache, as the weights
of a whole model do.
"""

import argparse
import copy
import itertools
import operator
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from deployments.llm import model
from deployments.llm.kernels.elementwise import matvec_kernel
from deployments.llm.kernels.linear import DenseLinear, Launch, Normed, QuantisedLinear, Workspace, plan, planner
from deployments.llm.loading import Options, make_runner
from deployments.llm.runner import Runner
from deployments.llm.step1 import Step1Config
from deployments.llm.weights import Weights
from deployments.types import Sampling
from scripts.benchmarks.llm import decode
from scripts.benchmarks.llm_models import SIZES, VOCABULARY, random_int4, random_matrix, random_nf4, random_weights

Multiply = Callable[[torch.Tensor], torch.Tensor]
CUDA = torch.device("cuda", 0)
ROTATION_BYTES = 200e6
"""Several times the L2 cache of any GPU."""


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the flags ask for; returns the figures."""
    config = SIZES[arguments.preset]
    figures: dict[str, Any] = {"machine": torch.cuda.get_device_name(CUDA)}
    if arguments.check:
        figures["check"] = [check(config, variant) for variant in arguments.variants]
    if arguments.profile:
        figures["profile"] = [profile_steps(config, variant, arguments) for variant in arguments.variants]
    if arguments.plans:
        figures["plans"] = [compare_plans(config, variant, arguments.prompt) for variant in arguments.variants]
    if arguments.kernels:
        figures["kernels"] = compare_kernels(config)
    return figures


@torch.inference_mode()
def check(config: Step1Config, variant: str) -> dict[str, Any]:
    """A few layers on the GPU's kernels against the same layers in plain torch: hidden states and drawn codes."""
    torch.manual_seed(0)
    config = copy.copy(config)
    config.num_hidden_layers = 4
    weights = random_weights(config, variant, CUDA)
    prompt = torch.randint(700, 5000, (700,)).tolist()
    ours = make_runner(weights, VOCABULARY, Options(slots=4, max_length=1024))
    cache = model.allocate(config, 4, 1024, CUDA, torch.bfloat16)
    plain = Runner(model.SlotModel(weights, model.TorchOps(config, cache)), cache, VOCABULARY)
    tokens: list[list[int]] = [[], []]
    for runner, drawn in zip((ours, plain), tokens, strict=True):
        for slot, length in ((0, 600), (2, 77)):
            runner.begin(slot, Sampling(seed=slot), prompt[:length])
            for start in range(0, length, 512):
                runner.prefill(slot, prompt[start : min(length, start + 512)], start)
            drawn += runner.first(slot).tokens()
    ours_last, plain_last = (last_hidden(runner, prompt) for runner in (ours, plain))
    error = ((ours_last - plain_last).norm() / plain_last.norm()).item()
    decode_error = decode_difference(ours, plain)
    result = {"variant": variant, "prefill": error, "decode": decode_error, "first_codes_equal": tokens[0] == tokens[1]}
    print(f"check {variant}: relative error of hidden states: prefill {error:.4f}, decode {decode_error:.4f}; {tokens}")
    overlapped, apart = (generate(weights, prompt, overlap) for overlap in (True, False))
    result["overlap_equal"] = sum(map(operator.eq, overlapped, apart)) / len(apart)
    print(f"check {variant}: {result['overlap_equal']:.1%} of {len(apart)} codes the same with and without overlap")
    assert error < 0.03 and decode_error < 0.03, result
    return result


def generate(weights: Weights, prompt: list[int], overlap: bool, steps: int = 100) -> list[int]:
    """Codes of four requests through captured steps, two of them joining later."""
    for layer in weights.layers:
        for linear in (layer.qkv, layer.o, layer.gate_up, layer.down):
            assert isinstance(linear, DenseLinear | QuantisedLinear)
            linear.workspace.overlap = overlap
    runner = make_runner(weights, VOCABULARY, Options(slots=4, max_length=1024, overlap=overlap))
    codes: list[int] = []
    for slots in ((0,), (1,), (2, 3)):
        for slot in slots:
            runner.begin(slot, Sampling(seed=slot), prompt[: 200 * slot + 50])
            for start in range(0, 200 * slot + 50, 512):
                runner.prefill(slot, prompt[start : min(200 * slot + 50, start + 512)], start)
            codes += runner.first(slot).tokens()
        for _ in range(steps):
            codes += runner.decode(list(range(max(slots) + 1))).tokens()
    return codes


def last_hidden(runner: Runner, prompt: list[int]) -> torch.Tensor:
    """float32 (hidden,): the last state of a prompt in slot 1."""
    chunk = model.Chunk(*torch.tensor([[1], [0]], device=CUDA))
    return runner.model.prefill(torch.tensor(prompt[:500], device=CUDA), chunk)[-1].float()


def decode_difference(ours: Runner, plain: Runner) -> float:
    """Worst relative error of a row's hidden states over batches of several sizes."""
    worst = 0.0
    for rows in (1, 2, 4):
        slots = torch.tensor([0, 2, 4, 4][:rows], device=CUDA)
        ids, at = torch.tensor([800, 900, 0, 0][:rows], device=CUDA), torch.tensor([600, 77, 0, 0][:rows], device=CUDA)
        found, wanted = (runner.model.decode(ids, slots, at)[: min(rows, 2)].float() for runner in (ours, plain))
        worst = max(worst, ((found - wanted).norm(dim=1) / wanted.norm(dim=1)).max().item())
    return worst


def profile_steps(config: Step1Config, variant: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Microseconds per step of each kernel, for one request and for many."""
    weights: Weights = random_weights(config, variant, CUDA)
    slots = max(arguments.batches or [32])
    runner = make_runner(weights, VOCABULARY, Options(slots, 1024))
    prompt = torch.randint(700, 5000, (arguments.prompt,)).tolist()
    for slot in range(slots):
        runner.begin(slot, Sampling(seed=slot), prompt)
        runner.prefill(slot, prompt, 0)
        runner.first(slot).tokens()
    figures: dict[str, Any] = {"variant": variant}
    jobs: dict[str, Callable[[], object]] = {
        f"decode {batch}": partial(runner.decode, list(range(batch))) for batch in (1, slots)
    }
    jobs[f"prefill {arguments.prompt}"] = partial(runner.prefill, 0, prompt, 0)
    for name, job in jobs.items():
        job()
        torch.cuda.synchronize()
        with profile(activities=[ProfilerActivity.CUDA]) as traced:
            for _ in range(10):
                job()
            torch.cuda.synchronize()
        events = sorted(traced.key_averages(), key=lambda event: -event.self_device_time_total)
        print(f"\n{variant}, {name}: microseconds per step by kernel")
        for event in events[:12]:
            print(f"{event.self_device_time_total / 10:9.1f} {event.count / 10:6.0f}  {event.key[:90]}")
        figures[name] = {event.key[:60]: event.self_device_time_total / 10 for event in events[:12]}
    return figures


PLANS = {
    "as served": plan,
    "256 programs": planner(programs=256),
    "1024 programs": planner(programs=1024),
    "3 stages": planner(stages=3),
    "6 stages": planner(stages=6),
    "8 rows": planner(narrow=8),
    "128 outputs": planner(block_n=128),
}


def compare_plans(config: Step1Config, variant: str, prompt_length: int) -> dict[str, Any]:
    """Milliseconds of a whole step, for one request and for 32, by how 4-bit products are cut up."""
    weights = random_weights(config, variant, CUDA)
    prompt = torch.randint(700, 5000, (prompt_length,)).tolist()
    figures: dict[str, Any] = {"variant": variant}
    for name, candidate in PLANS.items():
        for layer in weights.layers:
            for linear in (layer.qkv, layer.o, layer.gate_up, layer.down):
                assert isinstance(linear, QuantisedLinear)
                linear.plan = candidate
        figures[name] = [time_steps(weights, prompt, batch) for batch in (1, 32)]
        print(
            f"{variant} {name:14} batch 1: {figures[name][0]:6.3f} ms, batch 32: {figures[name][1]:6.3f} ms", flush=True
        )
    return figures


def time_steps(weights: Weights, prompt: list[int], batch: int, steps: int = 60) -> float:
    """Milliseconds of one step of ``batch`` requests."""
    runner = make_runner(weights, VOCABULARY, Options(batch, 1024, chunk=32, deterministic=True))
    for slot in range(batch):
        runner.begin(slot, Sampling(seed=slot), prompt)
        for start in range(0, len(prompt), 32):
            runner.prefill(slot, prompt[start : start + 32], start)
        runner.first(slot).tokens()
    slots = list(range(batch))
    decode(runner, slots, 5)
    torch.cuda.synchronize()
    began = time.perf_counter()
    decode(runner, slots, steps)
    torch.cuda.synchronize()
    return (time.perf_counter() - began) / steps * 1e3


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
    workspace = Workspace(CUDA, 1 << 23, overlap=False)
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
        plain = {"GATED": False, "SCALED": 0, "ADDED": False, "P": 1, "LINES": 1, "OVERLAP": False}
        shape = {"ROWS": rows, "BLOCK": block, "num_warps": warps}
        matvec_kernel[(-(-out // rows),)](x, matrix, y, y, y, y, y, y, out, 0.0, inner, **plain, **shape)
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
