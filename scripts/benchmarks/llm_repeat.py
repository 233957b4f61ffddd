"""How often the same seed gives the same codes: alone, and while others join and leave."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from deployments.llm.engine import Engine
from deployments.llm.jobs import Job
from deployments.llm.loading import Options, make_runner
from deployments.llm.step1 import Step1Config
from deployments.types import Sampling
from scripts.benchmarks.llm_models import VOCABULARY, random_weights

REQUESTS = 16
PROMPT, BUDGET = 200, 100


def run(config: Step1Config, variants: list[str], device: torch.device) -> list[dict[str, Any]]:
    """Print and return the share of requests whose codes are the same, by variant and setting."""
    rows = []
    print(f"{'variant':>8} {'deterministic':>14} {'alone again':>12} {'in company':>11}")
    for variant in variants:
        weights = random_weights(config, variant, device)
        for deterministic in (False, True):
            again, company = shares(make_engine(weights, device, deterministic))
            rows.append({"variant": variant, "deterministic": deterministic, "again": again, "company": company})
            print(f"{variant:>8} {deterministic!s:>14} {again:12.0%} {company:11.0%}")
        del weights
    return rows


def make_engine(weights: Any, device: torch.device, deterministic: bool) -> Engine:
    """An engine of eight slots, so that half of sixteen requests wait for the others."""
    options = Options(8, PROMPT + BUDGET + 64, deterministic=deterministic)
    runner = make_runner(weights, VOCABULARY, options)
    return Engine(runner, VOCABULARY.stops, lookahead=1 if device.type == "cuda" else 0)


def shares(engine: Engine) -> tuple[float, float]:
    """How many requests repeat their codes when asked alone once more, and when asked all at once."""
    prompts = [np.random.default_rng(seed).integers(700, 5000, PROMPT).tolist() for seed in range(REQUESTS)]

    def codes(seed: int) -> list[int]:
        pieces = engine.complete(Job(prompts[seed], BUDGET - 3 * (seed % 8), Sampling(seed)))
        return [int(code) for piece in pieces for code in piece.ids]

    first, second = ([codes(seed) for seed in range(REQUESTS)] for _ in range(2))
    with ThreadPoolExecutor(REQUESTS) as pool:
        together = list(pool.map(codes, range(REQUESTS)))
    engine.close()
    return same(first, second), same(first, together)


def same(some: list[list[int]], others: list[list[int]]) -> float:
    """Share of equal pairs."""
    return sum(one == other for one, other in zip(some, others, strict=True)) / len(some)
