"""Steps between matrix products, each one kernel on a GPU: there they cost more than the products themselves.

Every function is defined by its plain torch form, which is what runs on a CPU.
"""

from types import ModuleType

import torch
import torch.nn.functional as F

CONTEXT = 2  # frames that a causal convolution over three looks back


def snake(
    x: torch.Tensor,
    alpha: torch.Tensor,
    bias: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """A sum, and v + sin(alpha v)^2 / alpha (arXiv:2006.08195) of it.

    x and residual (batch, channels, 1, t), alpha and bias (channels,), mask (batch, 1, 1, t): the sum is
    mask * (x + bias) + residual. Without a residual its first result is of no use.
    """
    if x.is_cuda:
        return _kernels().snake(x, alpha, bias, residual, mask)
    summed = x if bias is None else x + bias[:, None, None]
    summed = summed if mask is None else summed * mask
    summed = summed if residual is None else summed + residual
    rate = alpha[:, None, None]
    return summed, (summed + (summed * rate).sin().square() / (rate + 1e-9)).to(x.dtype)


def norm(
    x: torch.Tensor,
    scale: torch.Tensor,
    shift: torch.Tensor,
    eps: float,
    gated: tuple[torch.Tensor, torch.Tensor] | None = None,
    mish: bool = False,
    spread: bool = False,
    past: torch.Tensor | None = None,
    lengths: torch.Tensor | None = None,
    ends: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """A sum, its LayerNorm, and what the next matrix product wants of that.

    x (rows, frames, width); gated: a gate (width,) and a branch like x to be added; scale and shift (width,); mish:
    apply it after the norm; spread: lay each frame behind its two predecessors, (rows, frames, 3 * width), where
    before the first frame comes past (rows, 2, width), or zeros. Then, if there are ends (rows, 2, width), each row's
    last two frames are written there; lengths (rows,) say where rows end that are padded. -> the sum, and the result
    """
    if x.is_cuda:
        return _kernels().norm(x, scale, shift, eps, gated, mish, spread, past, lengths, ends)
    summed = x if gated is None else torch.addcmul(x, gated[0], gated[1])
    out = F.layer_norm(summed, summed.shape[-1:], scale, shift, eps)
    out = F.mish(out) if mish else out
    if spread:
        frames = out.shape[1]
        out = F.pad(out, (0, 0, CONTEXT, 0)) if past is None else torch.cat([past, out], dim=1)
        out = torch.cat([out[:, shifted : shifted + frames] for shifted in range(CONTEXT + 1)], dim=2)
        if ends is not None:
            rows = torch.arange(len(out), device=out.device)
            last = out[:, -1] if lengths is None else out[rows, lengths - 1]
            ends[:] = last.unflatten(1, (CONTEXT + 1, -1))[:, 1:]
    return summed, out


def split_heads(
    projected: torch.Tensor, weights: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, eps: float
) -> torch.Tensor:
    """Queries, keys and values from their common projection; the first two normalised per head.

    projected (rows, frames, 3 * heads * width); weights (4, width): the queries' scale and shift, the keys'.
    Writes the last frames of keys and values (rows, heads, length, width). -> queries (rows, heads, frames, width)
    """
    if projected.is_cuda:
        return _kernels().split_heads(projected, weights, keys, values, eps)
    rows, frames, _ = projected.shape
    parts = projected.view(rows, frames, 3, keys.shape[1], -1).permute(2, 0, 3, 1, 4)
    query, key = (
        F.layer_norm(part, part.shape[-1:], scale, shift, eps)
        for part, scale, shift in ((parts[0], weights[0], weights[1]), (parts[1], weights[2], weights[3]))
    )
    keys[:, :, -frames:], values[:, :, -frames:] = key, parts[2]
    return query


def _kernels() -> ModuleType:
    from deployments.vocoder import kernels

    return kernels
