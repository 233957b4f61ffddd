"""Language models of random weights, built where they run: time and memory do not depend on the values."""

from collections.abc import Callable

import torch

from deployments.llm.loading import place_for
from deployments.llm.quantization import NF4_TABLE, Int4Weight, NF4Weight
from deployments.llm.runner import Vocabulary
from deployments.llm.step1 import Step1Config
from deployments.llm.weights import Layer, Matmul, Weight, Weights

SIZES = {
    "tiny": Step1Config(256, 512, 8, 2, 2, 6144),
    "demo": Step1Config(1024, 2816, 16, 2, 12, 16384),
    "full": Step1Config(),
}
CUDA = torch.device("cuda", 0)
VOCABULARY = Vocabulary(audio=700, stops=())
"""Without stops every request runs to its budget."""


def random_matrix(out: int, inner: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Values small enough that activations stay finite."""
    return torch.randn(out, inner, device=device, dtype=dtype) * 0.02


def random_int4(out: int, inner: int, device: torch.device, symmetric: bool = True) -> Int4Weight:
    """Groups of 128, scales as a plain matrix of deviation 0.02 would have them."""
    codes = torch.randint(16, (out, inner), dtype=torch.uint8, device=device)
    scales = torch.rand(out, inner // 128, device=device).bfloat16() * 0.005
    zeros = torch.full(scales.shape, 8, dtype=torch.uint8, device=device)
    if not symmetric:
        zeros = torch.randint(16, scales.shape, dtype=torch.uint8, device=device)
    return Int4Weight(codes, scales, zeros)


def random_nf4(out: int, inner: int, device: torch.device) -> NF4Weight:
    """Blocks of 64."""
    codes = torch.randint(16, (out, inner), dtype=torch.uint8, device=device)
    absmax = torch.rand(out * inner // 64, device=device) * 0.04
    return NF4Weight(codes, torch.tensor(NF4_TABLE, device=device), absmax, 64)


def random_weight(variant: str, device: torch.device, dtype: torch.dtype) -> Callable[[int, int], Weight]:
    """What makes a linear layer's weight (out, in) of a variant."""
    if variant == "awq":
        return lambda out, inner: random_int4(out, inner, device)
    if variant == "bnb":
        return lambda out, inner: random_nf4(out, inner, device)
    return lambda out, inner: random_matrix(out, inner, device, dtype)


def random_weights(config: Step1Config, variant: str, device: torch.device) -> Weights:
    """A whole model, quantised matrices as they are served."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    make, place = random_weight(variant, device, dtype), place_for(device, dtype)
    hidden, grouped = config.hidden_size, config.num_attention_groups * config.head_dim

    def linear(out: int, inner: int) -> Matmul:
        return place([make(out, inner)])

    def norm() -> torch.Tensor:
        return torch.ones(hidden, device=device, dtype=dtype)

    layers = [
        Layer(
            norm(),
            linear(hidden + 2 * grouped, hidden),
            linear(hidden, hidden),
            norm(),
            linear(2 * config.intermediate_size, hidden),
            linear(hidden, config.intermediate_size),
        )
        for _ in range(config.num_hidden_layers)
    ]
    embedding, head = (random_matrix(config.vocab_size, hidden, device, dtype) for _ in range(2))
    return Weights(config, embedding, layers, norm(), head)
