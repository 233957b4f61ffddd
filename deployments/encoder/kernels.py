"""VQ02's attention and FSMN memory as one Triton kernel, for a GPU; nothing else here imports triton.

A block's attention is 9 rows over 25 keys: too little work for general kernels, which spend their time on gathering
the window, on masks, transpositions and padding. Here one program takes a block and a head: it reads keys and values
where they lie, by the window's indices, and adds the convolution over its own nine rows, the residual and the output
projection's bias while it is at it. Products are exact float32.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from deployments.encoder.blocks import BLOCK, WINDOW
from deployments.encoder.paraformer import SanmEncoder

ROWS, KEYS = 16, 32  # powers of two that hold BLOCK and WINDOW


@triton.jit
def _attend_and_remember(  # type: ignore[no-untyped-def]
    qkv, residual, bias, taps, valid, window, seen, context, memory,
    scale, width: tl.constexpr, head: tl.constexpr, n_rows: tl.constexpr, n_keys: tl.constexpr,
    n_taps: tl.constexpr, rows_up: tl.constexpr, keys_up: tl.constexpr, has_residual: tl.constexpr,
):  # fmt: skip
    block, channel = tl.program_id(0), tl.program_id(1) * head + tl.arange(0, head)
    row, key = tl.arange(0, rows_up), tl.arange(0, keys_up)
    own = (block * n_rows + row)[:, None]
    inside = (row < n_rows)[:, None]

    index = tl.load(window + block * n_keys + key, mask=key < n_keys, other=0)
    reached = tl.load(seen + block * n_keys + key, mask=key < n_keys, other=0) != 0
    there = index[:, None] * (3 * width) + channel[None]
    query = tl.load(qkv + own * (3 * width) + channel[None], mask=inside, other=0).to(tl.float32) * scale
    keys = tl.load(qkv + there + width, mask=reached[:, None], other=0).to(tl.float32)
    values = tl.load(qkv + there + 2 * width, mask=reached[:, None], other=0).to(tl.float32)
    scores = tl.dot(query, tl.trans(keys), input_precision="ieee")
    scores = tl.where(reached[None], scores, float("-inf"))
    weights = tl.exp(scores - tl.max(scores, 1)[:, None])
    weights = weights / tl.sum(weights, 1)[:, None]
    out = tl.dot(weights, values, input_precision="ieee")
    at = own * width + channel[None]
    tl.store(context + at, out.to(context.dtype.element_ty), mask=inside)

    total = tl.zeros((rows_up, head), tl.float32) + tl.load(bias + channel).to(tl.float32)[None]
    if has_residual:
        total += tl.load(residual + at, mask=inside, other=0).to(tl.float32)
    for tap in tl.static_range(n_taps):
        source = row + tap - n_taps // 2
        known = (source >= 0) & (source < n_rows)
        known &= tl.load(valid + block * n_rows + source, mask=known, other=0) != 0
        value_at = (block * n_rows + source)[:, None] * (3 * width) + 2 * width + channel[None]
        value = tl.load(qkv + value_at, mask=known[:, None], other=0).to(tl.float32)
        factor = tl.load(taps + channel * n_taps + tap).to(tl.float32)
        total += value * (factor + (1.0 if tap == n_taps // 2 else 0.0))[None]  # the memory adds its own input
    tl.store(memory + at, total.to(memory.dtype.element_ty), mask=inside)


def attend_and_remember(
    qkv: Tensor, residual: Tensor | None, bias: Tensor, taps: Tensor, heads: int, places: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Attention's context, and FSMN memory + residual + bias, (blocks * 9, width) each.

    qkv: (blocks * 9, 3 * width). residual: (blocks * 9, width) or None. bias: (width,). taps: (width, 1, 11).
    places: valid (blocks, 9), window and seen (blocks, 25), as in ``blocks.Plan``.
    """
    valid, window, seen = (place.view(torch.uint8) if place.dtype == torch.bool else place for place in places)
    width = len(bias)
    context, memory = (torch.empty(len(qkv), width, dtype=qkv.dtype, device=qkv.device) for _ in range(2))
    head = width // heads
    _attend_and_remember[(len(window), heads)](
        qkv, qkv if residual is None else residual, bias, taps, valid, window, seen, context, memory,
        head**-0.5, width, head, BLOCK, WINDOW, taps.shape[-1], ROWS, KEYS, residual is not None, num_warps=4,
    )  # fmt: skip
    return context, memory


class FusedLayers:
    """Called like ``blocks.Layers``, with the same result."""

    def __init__(self, encoder: SanmEncoder) -> None:
        self.encoder = encoder

    def __call__(self, x: Tensor, valid: Tensor, window: Tensor, seen: Tensor) -> Tensor:
        blocks = len(x)
        x = x.to(self.encoder.encoders0[0].self_attn.linear_out.weight.dtype).flatten(0, 1)  # (blocks * 9, 560)
        for layer in [*self.encoder.encoders0, *self.encoder.encoders]:
            attention = layer.self_attn
            qkv = attention.linear_q_k_v(layer.norm1(x))
            residual = x if layer.in_size == layer.size else None
            project, taps = attention.linear_out, attention.fsmn_block.weight
            context, x = attend_and_remember(qkv, residual, project.bias, taps, attention.h, (valid, window, seen))
            x.addmm_(context, project.weight.T)
            forward = layer.feed_forward
            x = x + forward.w_2(forward.w_1(layer.norm2(x)).relu_())
        return x.float().view(blocks, BLOCK, -1)
