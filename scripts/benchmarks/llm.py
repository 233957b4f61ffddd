"""The language model's times: prefill and decoding for each variant and batch, beside transformers' generate.

``--kernels`` compares the linear layers' kernels with each other instead, ``--check`` the whole decoder with plain
torch, and ``--profile`` says where a step's time goes.
"""

import argparse
import gc
import time
from typing import Any

import torch

from deployments.llm.loading import Options, make_runner
from deployments.llm.runner import Result, Runner
from deployments.llm.step1 import Step1Config, Step1ForCausalLM
from deployments.types import Sampling
from scripts.benchmarks import llm_repeat
from scripts.benchmarks.llm_models import SIZES, VOCABULARY, random_weights

BANDWIDTH = {"H200": 4.8e12, "H100": 3.35e12, "A100": 2.0e12, "L40S": 0.864e12}
"""Bytes per second of a GPU's memory, from its data sheet."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The language model's own arguments."""
    parser.add_argument("--variants", nargs="+", default=["base", "awq", "bnb"], choices=("base", "awq", "bnb"))
    parser.add_argument("--batches", type=int, nargs="+", help="requests at once; default: 1 4 8 16 32, on a CPU 1 8")
    parser.add_argument("--prompt", type=int, default=416, help="tokens of the prompt")
    parser.add_argument("--steps", type=int, help="steps that are timed; default: 100, on a CPU 20")
    parser.add_argument("--no-baseline", action="store_true", help="leave transformers' generate out")
    parser.add_argument("--kernels", action="store_true", help="compare the linear layers' kernels")
    parser.add_argument("--repeat", action="store_true", help="how often the same seed gives the same codes")
    parser.add_argument("--check", action="store_true", help="compare the GPU's decoder with plain torch")
    parser.add_argument("--profile", action="store_true", help="where a decoding step's time goes")
    parser.add_argument("--plans", action="store_true", help="compare ways to cut 4-bit products up")
    parser.add_argument("--ways", action="store_true", help="compare ways in which a step's kernels work together")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Print the tables and return their figures."""
    if arguments.kernels or arguments.check or arguments.profile or arguments.plans or arguments.ways:
        from scripts.benchmarks import llm_steps  # needs triton, which CPUs lack

        return llm_steps.run(arguments)
    device = torch.device("cuda", 0) if arguments.device == "cuda" else torch.device("cpu")
    config = SIZES[arguments.preset]
    if arguments.repeat:
        return {"repeat": llm_repeat.run(config, arguments.variants, device)}
    if device.type == "cpu" and arguments.preset == "tiny":
        torch.set_num_threads(1)  # matrices this small only lose by threads
    bench = Bench(config, device, arguments)
    print(f"llm, {arguments.preset} sizes, {bench.machine}, random weights, prompt {arguments.prompt}")
    rows = [row for variant in arguments.variants for row in bench.variant(variant)]
    figures: dict[str, Any] = {"machine": bench.machine, "decode": rows}
    if not arguments.no_baseline:
        figures["transformers"] = bench.transformers()
        print_baseline(figures["transformers"], rows)
    return figures


class Bench:
    """Sizes, batches, and a clock that waits for the device."""

    def __init__(self, config: Step1Config, device: torch.device, arguments: argparse.Namespace) -> None:
        on_gpu = device.type == "cuda"
        self.config, self.device = config, device
        self.batches = arguments.batches or ([1, 4, 8, 16, 32] if on_gpu else [1, 8])
        self.steps = arguments.steps or (100 if on_gpu else 20)
        self.prompt = arguments.prompt
        self.machine = torch.cuda.get_device_name(device) if on_gpu else f"{torch.get_num_threads()} CPU threads"
        self.peak = next((rate for name, rate in BANDWIDTH.items() if name in self.machine), None)

    def now(self) -> float:
        """Seconds, after everything launched has run."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def variant(self, variant: str) -> list[dict[str, Any]]:
        """Every batch of one variant."""
        before = self.allocated()
        weights = random_weights(self.config, variant, self.device)
        held = self.allocated() - before
        length = self.prompt + 2 * self.steps + 64
        runner = make_runner(weights, VOCABULARY, Options(max(self.batches), length))
        print(f"\n{variant}: weights {held / 1e9:.2f} GB, peak with cache and graphs {self.peak_memory() / 1e9:.2f} GB")
        print(f"{'batch':>6} {'ms/step':>8} {'tokens/s':>9} {'TB/s':>6} {'share':>6} {'prefill ms':>11}")
        rows = []
        for batch in self.batches:
            prefill, step = self.time(runner, batch)
            rate = streamed_bytes(self.config, variant) / step
            row = {"variant": variant, "batch": batch, "ms": step * 1e3, "tokens_per_s": batch / step}
            row |= {"prefill_ms": prefill * 1e3, "bytes_per_s": rate, "weights_gb": held / 1e9}
            share = f"{rate / self.peak:6.0%}" if self.peak else "     -"
            print(f"{batch:6} {step * 1e3:8.2f} {batch / step:9.0f} {rate / 1e12:6.2f} {share} {prefill * 1e3:11.1f}")
            rows.append(row)
        del runner, weights
        self.release()
        return rows

    def time(self, runner: Runner, batch: int) -> tuple[float, float]:
        """Seconds of one prefill and of one step of ``batch`` requests."""
        prompt = torch.randint(700, 5000, (self.prompt,)).tolist()
        prefills = []
        for slot in range(batch):
            began = self.now()
            for start in range(0, self.prompt, 512):
                if start == 0:
                    runner.begin(slot, Sampling(seed=slot), prompt)
                runner.prefill(slot, prompt[start : start + 512], start)
            prefills.append(self.now() - began)
            runner.first(slot).tokens()
        slots = list(range(batch))
        decode(runner, slots, 5)
        began = self.now()
        decode(runner, slots, self.steps)
        return min(prefills), (self.now() - began) / self.steps

    @torch.inference_mode()
    def transformers(self) -> dict[str, float]:
        """Milliseconds per token of transformers' generate on the same model, one request, cache on."""
        dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        with torch.device(self.device):
            torch.set_default_dtype(dtype)
            model = Step1ForCausalLM(self.config).eval()
            torch.set_default_dtype(torch.float32)
        ids = torch.randint(700, 5000, (1, self.prompt), device=self.device)
        count = min(self.steps, 50)
        settings = {"do_sample": True, "temperature": 0.7, "eos_token_id": None, "pad_token_id": 0}
        times = []
        for _ in range(2):
            began = self.now()
            model.generate(ids, max_new_tokens=count, min_new_tokens=count, **settings)
            times.append(self.now() - began)
        return {"ms": times[-1] / count * 1e3}

    def allocated(self) -> int:
        return torch.cuda.memory_allocated() if self.device.type == "cuda" else 0

    def peak_memory(self) -> int:
        return torch.cuda.max_memory_allocated() if self.device.type == "cuda" else 0

    def release(self) -> None:
        """Give one variant's memory back before the next."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


def decode(runner: Runner, slots: list[int], steps: int) -> None:
    """Steps as the engine launches them: one ahead of the results."""
    before: Result | None = None
    for _ in range(steps):
        result = runner.decode(slots)
        if before is not None:
            before.tokens()
        before = result
    if before is not None:
        before.tokens()


def streamed_bytes(config: Step1Config, variant: str) -> int:
    """Bytes of weights that a step reads: every layer's matrices, and the head's rows for codes."""
    grouped = config.num_attention_groups * config.head_dim
    attention = config.hidden_size * (2 * config.hidden_size + 2 * grouped)
    mlp = 3 * config.hidden_size * config.intermediate_size
    weights = config.num_hidden_layers * (attention + mlp)
    per_weight = {"base": 2.0, "awq": 0.5 + 2 / 128, "bnb": 0.5 + 4 / 64}[variant]
    return int(weights * per_weight + 5122 * config.hidden_size * 2)


def print_baseline(baseline: dict[str, float], rows: list[dict[str, Any]]) -> None:
    """One request of transformers' generate, and how much faster each variant is."""
    print(f"\ntransformers generate, base, batch 1: {baseline['ms']:.2f} ms/token")
    for row in rows:
        if row["batch"] == 1:
            print(f"  {row['variant']}: {baseline['ms'] / row['ms']:.1f} times as fast")
