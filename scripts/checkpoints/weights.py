"""Seeded random tensors that behave like a freshly initialised model.

Activations keep their size from layer to layer (a matrix's standard deviation is 1 / sqrt(fan in)), so a random
checkpoint gives finite numbers at any depth and its outputs depend on its inputs.
"""

import hashlib
import math
from collections.abc import Iterator

import torch

from deployments.checkpoint import Shapes

NORM_SPREAD = 0.05
BIAS_SPREAD = 0.02


class Source:
    """A stream of random tensors, one per file: the same seed, file name and device give the same tensors."""

    def __init__(self, seed: int, name: str, device: str = "cpu") -> None:
        digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
        self.device = device
        self.generator = torch.Generator(device).manual_seed(int.from_bytes(digest[:7], "little"))

    def normal(self, *shape: int, std: float = 1.0, mean: float = 0.0) -> torch.Tensor:
        """float32 normal numbers on the CPU."""
        return self._normal(shape, mean, std, torch.float32).cpu()

    def matrix(self, fan_in: int, *shape: int) -> torch.Tensor:
        """float32 weights of a linear map or convolution that keeps its input's size."""
        return self.normal(*shape, std=1 / math.sqrt(fan_in))

    def state(self, shapes: Shapes, dtype: torch.dtype = torch.float32) -> Iterator[tuple[str, torch.Tensor]]:
        """A tensor on the CPU for every name, drawn in the order of ``shapes``."""
        for name, shape in shapes.items():
            mean, std = _distribution(name, shape)
            yield name, self._normal(shape, mean, std, dtype).cpu()

    def _normal(self, shape: tuple[int, ...], mean: float, std: float, dtype: torch.dtype) -> torch.Tensor:
        tensor = torch.empty(shape, dtype=dtype, device=self.device)
        return tensor.normal_(mean, std, generator=self.generator)


def _distribution(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """Mean and standard deviation of a tensor, from its name and shape."""
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "original0":  # weight norm's magnitude: rows of norm one keep an activation's size
        return 1.0, NORM_SPREAD
    if leaf == "alpha" or (leaf == "weight" and len(shape) == 1):
        return 1.0, NORM_SPREAD
    if "embed" in name and leaf == "weight" and len(shape) == 2 and shape[0] > 4 * shape[1]:
        return 0.0, 1.0
    if len(shape) == 1 or leaf.startswith("pos_bias"):
        return 0.0, BIAS_SPREAD
    return 0.0, 1 / math.sqrt(math.prod(shape[1:]))
