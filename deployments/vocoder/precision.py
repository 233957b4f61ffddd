"""Arithmetic that a vocoder may be run with.

``float32`` is exact. ``tf32`` lets matrix products drop mantissa bits, GPUs of Ampere and later only. ``float16`` and
``bfloat16`` keep the flow's weights and activations in half precision, and the former those of HiFT's convolutions,
which tf32 rounds as coarsely. Everything else is as with tf32: the solver's sums, pitch, source and spectrum.
docs/vocoder.md has the errors of each.
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


def apply(precision: str) -> tuple[torch.dtype, torch.dtype]:
    """Set up this process for a precision and return the flow's and HiFT's types.

    cuDNN may choose algorithms for transposed convolutions that differ from run to run; they are ruled out, because
    the same seed has to give the same samples.
    """
    torch.backends.cudnn.deterministic = True
    torch.set_float32_matmul_precision("highest" if precision == "float32" else "high")
    flow = {"float16": torch.float16, "bfloat16": torch.bfloat16}.get(precision, torch.float32)
    return flow, torch.float16 if precision == "float16" else torch.float32
