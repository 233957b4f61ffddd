"""Arithmetic that a vocoder may be run with.

``float32`` is exact. ``tf32`` lets matrix products drop mantissa bits, GPUs of Ampere and later only. ``float16`` and
``bfloat16`` keep the estimator's weights and activations in half precision and everything else as with tf32: the
solver's sums, the conformer, and HiFT, whose phases would suffer. docs/vocoder.md has the mel errors of each.
"""

import torch

from deployments.errors import StageError

PRECISIONS = ("float32", "tf32", "float16", "bfloat16")


def choose(precision: str, device: torch.device) -> str:
    """The precision to use: "auto" is float16 on a GPU and float32 on a CPU."""
    if precision == "auto":
        return "float16" if device.type == "cuda" else "float32"
    if precision not in PRECISIONS:
        raise StageError(f"precision {precision!r} is none of auto, {', '.join(PRECISIONS)}")
    return precision


def apply(precision: str) -> torch.dtype:
    """Set up this process for a precision and return the estimator's type."""
    torch.set_float32_matmul_precision("highest" if precision == "float32" else "high")
    return getattr(torch, precision) if precision in ("float16", "bfloat16") else torch.float32
