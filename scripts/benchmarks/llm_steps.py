"""Whole steps on a GPU: against plain torch, by kernel, and by how 4-bit products are cut up."""

import argparse
import copy
import operator
import time
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch.profiler import ProfilerActivity, profile

from deployments.llm import model
from deployments.llm.kernels.fusion import Ways
from deployments.llm.kernels.linear import DenseLinear, QuantisedLinear, plan, planner
from deployments.llm.loading import Options, make_runner
from deployments.llm.runner import Runner
from deployments.llm.step1 import Step1Config
from deployments.llm.weights import Weights
from deployments.types import Sampling
from scripts.benchmarks.llm import decode
from scripts.benchmarks.llm_kernels import compare_kernels
from scripts.benchmarks.llm_models import CUDA, SIZES, VOCABULARY, random_weights


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the flags ask for; returns the figures."""
    config = SIZES[arguments.preset]
    figures: dict[str, Any] = {"machine": torch.cuda.get_device_name(CUDA)}
    if arguments.check:
        figures["check"] = [check(config, variant) for variant in arguments.variants]
    if arguments.profile:
        figures["profile"] = [profile_steps(config, variant, arguments) for variant in arguments.variants]
    if arguments.ways:
        figures["ways"] = [compare_ways(config, variant, arguments.prompt) for variant in arguments.variants]
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
    overlapped, apart = (generate(weights, prompt, Ways(overlap=overlap)) for overlap in (True, False))
    result["overlap_equal"] = sum(map(operator.eq, overlapped, apart)) / len(apart)
    print(f"check {variant}: {result['overlap_equal']:.1%} of {len(apart)} codes the same with and without overlap")
    assert error < 0.03 and decode_error < 0.03, result
    return result


def linears(weights: Weights) -> list[DenseLinear | QuantisedLinear]:
    """Every linear layer of the decoder."""
    found = [one for layer in weights.layers for one in (layer.qkv, layer.o, layer.gate_up, layer.down)]
    assert all(isinstance(one, DenseLinear | QuantisedLinear) for one in found)
    return cast(list[DenseLinear | QuantisedLinear], found)


def set_ways(weights: Weights, ways: Ways) -> None:
    """Have the linear layers work in these ways."""
    for linear in linears(weights):
        linear.workspace.ways = ways


def generate(weights: Weights, prompt: list[int], ways: Ways, steps: int = 100) -> list[int]:
    """Codes of four requests through captured steps, two of them joining later."""
    set_ways(weights, ways)
    runner = make_runner(weights, VOCABULARY, Options(slots=4, max_length=1024, ways=ways))
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
    "8 rows": planner(narrow=8),
    "8 rows, 1024 programs": planner(narrow=8, programs=1024),
    "256 programs": planner(programs=256),
    "3 stages": planner(stages=3),
    "6 stages": planner(stages=6),
}


def compare_plans(config: Step1Config, variant: str, prompt_length: int) -> dict[str, Any]:
    """Milliseconds of a whole step, for one request and for 32, by how 4-bit products are cut up."""
    weights = random_weights(config, variant, CUDA)
    prompt = torch.randint(700, 5000, (prompt_length,)).tolist()
    figures: dict[str, Any] = {"variant": variant}
    for name, candidate in PLANS.items():
        for linear in linears(weights):
            assert isinstance(linear, QuantisedLinear)
            linear.plan = candidate
        figures[name] = [time_steps(weights, prompt, batch) for batch in (1, 32)]
        print(
            f"{variant} {name:21} batch 1: {figures[name][0]:6.3f} ms, batch 32: {figures[name][1]:6.3f} ms", flush=True
        )
    return figures


WAYS = {
    "nothing": Ways(norms=False, gate=False),
    "gate": Ways(norms=False, gate=True),
    "gate, norms": Ways(norms=True, gate=True),
    "overlap": Ways(overlap=True, norms=False, gate=False),
    "overlap, gate, norms": Ways(overlap=True, norms=True, gate=True),
}


def compare_ways(config: Step1Config, variant: str, prompt_length: int) -> dict[str, Any]:
    """Milliseconds of a whole step, for one request and for 32, by how its kernels work together."""
    weights = random_weights(config, variant, CUDA)
    prompt = torch.randint(700, 5000, (prompt_length,)).tolist()
    figures: dict[str, Any] = {"variant": variant}
    for name, ways in WAYS.items():
        if variant == "base" and (ways.norms or ways.gate):  # these are of 4-bit products
            continue
        set_ways(weights, ways)
        figures[name] = [time_steps(weights, prompt, batch, ways) for batch in (1, 32)]
        one, many = figures[name]
        print(f"{variant} {name:20} batch 1: {one:6.3f} ms, batch 32: {many:6.3f} ms", flush=True)
    return figures


def time_steps(weights: Weights, prompt: list[int], batch: int, ways: Ways | None = None, steps: int = 60) -> float:
    """Milliseconds of one step of ``batch`` requests."""
    runner = make_runner(weights, VOCABULARY, Options(batch, 1024, chunk=32, deterministic=True, ways=ways))
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
