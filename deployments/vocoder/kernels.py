"""Triton kernels for what lies between the estimator's and HiFT's matrix products. Imported on GPUs only.

All of them read and write the tensors' own type and compute in float32. fused.py says what each one does and has the
same in plain torch.
"""

# mypy: disable-error-code="no-untyped-def"

import torch
import triton
import triton.language as tl


@triton.jit
def _snake(
    x,
    alpha,
    bias,
    residual,
    mask,
    summed,
    y,
    total,
    channels,
    BIASED: tl.constexpr,
    ADDED: tl.constexpr,
    MASKED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < total
    channel = at % channels
    value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    if BIASED:
        value += tl.load(bias + channel, mask=inside, other=0.0).to(tl.float32)
    if MASKED:
        value *= tl.load(mask + at // channels, mask=inside, other=0).to(tl.float32)
    if ADDED:
        value += tl.load(residual + at, mask=inside, other=0.0).to(tl.float32)
        tl.store(summed + at, value, mask=inside)
    rate = tl.load(alpha + channel, mask=inside, other=1.0).to(tl.float32)
    wave = tl.sin(value * rate)
    tl.store(y + at, value + wave * wave / (rate + 1e-9), mask=inside)


def snake(
    x: torch.Tensor,
    alpha: torch.Tensor,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    mask: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """See fused.snake. Tensors have their channels last in memory."""
    x = x.contiguous(memory_format=torch.channels_last)
    y = torch.empty_like(x)
    summed = x
    if residual is not None:
        residual = residual.contiguous(memory_format=torch.channels_last)
        summed = torch.empty_like(x)
    _snake[(triton.cdiv(x.numel(), 1024),)](
        x,
        alpha,
        alpha if bias is None else bias,
        x if residual is None else residual,
        alpha if mask is None else mask,
        summed,
        y,
        x.numel(),
        alpha.shape[0],
        BIASED=bias is not None,
        ADDED=residual is not None,
        MASKED=mask is not None,
        BLOCK=1024,
    )
    return summed, y


@triton.jit
def _norm(
    x,
    gate,
    branch,
    summed,
    scale,
    shift,
    past,
    lengths,
    ends,
    out,
    frames,
    width,
    eps,
    GATED: tl.constexpr,
    MISH: tl.constexpr,
    SPREAD: tl.constexpr,
    PAST: tl.constexpr,
    ENDS: tl.constexpr,
    UNEVEN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    index = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    value = tl.load(x + index * width + column, mask=inside, other=0.0).to(tl.float32)
    if GATED:
        added = tl.load(branch + index * width + column, mask=inside, other=0.0).to(tl.float32)
        value += tl.load(gate + column, mask=inside, other=0.0).to(tl.float32) * added
        tl.store(summed + index * width + column, value, mask=inside)
    mean = tl.sum(value, 0) / width
    centred = tl.where(inside, value - mean, 0.0)
    normed = centred / tl.sqrt(tl.sum(centred * centred, 0) / width + eps)
    normed = normed * tl.load(scale + column, mask=inside, other=0.0).to(tl.float32)
    normed += tl.load(shift + column, mask=inside, other=0.0).to(tl.float32)
    if MISH:
        # tanh(softplus(v)) = 1 - 2 / ((1 + exp(v))^2 + 1), and 1 where exp would overflow
        growth = 1 + tl.exp(tl.minimum(normed, 20.0))
        normed = normed * (1 - 2 / (growth * growth + 1))
    if SPREAD:
        row, frame = index // frames, index % frames
        length = frames
        if UNEVEN:
            length = tl.load(lengths + row).to(tl.int32)
        end = ends + row * 2 * width + column
        if ENDS:
            tl.store(end + width, normed, mask=column < tl.where(frame == length - 1, width, 0))
            tl.store(end, normed, mask=column < tl.where(frame == length - 2, width, 0))
        own = out + index * 3 * width + column
        tl.store(own + 2 * width, normed, mask=inside)
        tl.store(own + 4 * width, normed, mask=column < tl.where(frame + 1 < frames, width, 0))
        tl.store(own + 6 * width, normed, mask=column < tl.where(frame + 2 < frames, width, 0))
        if frame == 0:
            older = tl.zeros([BLOCK], tl.float32)
            newer = tl.zeros([BLOCK], tl.float32)
            if PAST:
                older = tl.load(past + row * 2 * width + column, mask=inside, other=0.0).to(tl.float32)
                newer = tl.load(past + row * 2 * width + width + column, mask=inside, other=0.0).to(tl.float32)
            tl.store(own, older, mask=inside)
            tl.store(own + width, newer, mask=inside)
            tl.store(own + 3 * width, newer, mask=column < tl.where(frames > 1, width, 0))
            if ENDS:
                tl.store(end, newer, mask=column < tl.where(length == 1, width, 0))
    else:
        tl.store(out + index * width + column, normed, mask=inside)


def norm(
    x: torch.Tensor,
    scale: torch.Tensor,
    shift: torch.Tensor,
    eps: float,
    gated: tuple[torch.Tensor, torch.Tensor] | None,
    mish: bool,
    spread: bool,
    past: torch.Tensor | None,
    lengths: torch.Tensor | None,
    ends: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """See fused.norm."""
    rows, frames, width = x.shape
    out = x.new_empty(rows, frames, 3 * width if spread else width)
    gate, branch = gated or (x, x)
    summed = torch.empty_like(x) if gated else x
    _norm[(rows * frames,)](
        x,
        gate,
        branch,
        summed,
        scale,
        shift,
        x if past is None else past,
        x if lengths is None else lengths,
        x if ends is None else ends,
        out,
        frames,
        width,
        eps,
        GATED=gated is not None,
        MISH=mish,
        SPREAD=spread,
        PAST=past is not None,
        ENDS=ends is not None,
        UNEVEN=lengths is not None,
        BLOCK=triton.next_power_of_2(width),
        num_warps=4,
    )
    return summed, out


@triton.jit
def _split_heads(
    projected,
    weights,
    query,
    keys,
    values,
    frames,
    before,
    eps,
    key_row,
    key_head,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    index = tl.program_id(0).to(tl.int64)
    row, frame = index // frames, index % frames
    head, column = tl.arange(0, HEADS)[:, None], tl.arange(0, WIDTH)[None, :]
    source = projected + index * 3 * HEADS * WIDTH + head * WIDTH + column
    to_query = query + ((row * HEADS + head) * frames + frame) * WIDTH + column
    to_key = row * key_row + head * key_head + (before + frame) * WIDTH + column
    for part in tl.static_range(2):
        value = tl.load(source + part * HEADS * WIDTH).to(tl.float32)
        value -= (tl.sum(value, 1) / WIDTH)[:, None]
        value = value / tl.sqrt(tl.sum(value * value, 1) / WIDTH + eps)[:, None]
        value = value * tl.load(weights + 2 * part * WIDTH + column).to(tl.float32)
        value += tl.load(weights + (2 * part + 1) * WIDTH + column).to(tl.float32)
        if part == 0:
            tl.store(to_query, value)
        else:
            tl.store(keys + to_key, value)
    tl.store(values + to_key, tl.load(source + 2 * HEADS * WIDTH))


def split_heads(
    projected: torch.Tensor, weights: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, eps: float
) -> torch.Tensor:
    """See fused.split_heads."""
    rows, frames, _ = projected.shape
    _, heads, length, width = keys.shape
    query = projected.new_empty(rows, heads, frames, width)
    assert keys.stride() == values.stride() and keys.stride()[2:] == (width, 1)
    _split_heads[(rows * frames,)](
        projected,
        weights,
        query,
        keys,
        values,
        frames,
        length - frames,
        eps,
        keys.stride(0),
        keys.stride(1),
        HEADS=heads,
        WIDTH=width,
        num_warps=4,
    )
    return query
