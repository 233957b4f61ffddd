"""VQ02's network over all blocks of all clips at once: the streaming loop's numbers in a fraction of its steps.

Within a layer a block depends on earlier blocks only through their keys and values in that same layer. So every
layer takes all blocks as one batch, and each block gathers its window: 16 rows cached by the four blocks before it
and its own nine. 42 blocks in 50 layers, 10 s of audio, are 50 steps instead of 2 100.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from deployments.encoder.frontend import PIECE_ROWS
from deployments.encoder.paraformer import LOOK_BACK, OVERLAP, SanmEncoder

BLOCK = OVERLAP + PIECE_ROWS
HISTORY = LOOK_BACK * PIECE_ROWS
WINDOW = HISTORY + BLOCK
Runner = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # x, valid, window, seen -> x after all layers


@dataclass(frozen=True)
class Plan:
    """Where everything lies when the rows of several clips, one after another, are cut in blocks.

    inputs: (blocks, 9) the rows of each block, counted from 1; 0 stands for a row of zeros.
    valid: (blocks, 9) False where a clip's last block has fewer rows.
    window: (blocks, 25) whose keys and values a block sees, as block * 9 + row.
    seen: (blocks, 25) False where the window reaches before the clip's start or beyond its end.
    outputs: (rows,) where each row's result lies, as block * 9 + row.
    places: (rows,) each row's place in its clip, from 0.
    """

    inputs: Tensor
    valid: Tensor
    window: Tensor
    seen: Tensor
    outputs: Tensor
    places: Tensor

    def to(self, device: torch.device) -> "Plan":
        """The same plan on a device."""
        return Plan(*(tensor.to(device, non_blocking=True) for tensor in vars(self).values()))


def make_plan(counts: list[int]) -> Plan:
    """The plan for clips of so many rows each, on the CPU."""
    blocks = [-(-count // PIECE_ROWS) for count in counts]
    local = np.concatenate([np.arange(number) for number in blocks])[:, None]  # (blocks, 1) number within the clip
    clip = np.repeat(np.arange(len(counts)), blocks)
    first_row = np.concatenate([[0], np.cumsum(counts)])[clip][:, None]
    last_row = np.asarray(counts)[clip][:, None]

    row = local * PIECE_ROWS + np.arange(BLOCK) - OVERLAP  # (blocks, 9) counted within the clip
    valid = row < last_row
    inputs = np.where(valid & (row >= 0), first_row + row + 1, 0)
    number = np.arange(len(local))[:, None]
    before = np.arange(HISTORY)
    history = (number - LOOK_BACK + before // PIECE_ROWS) * BLOCK + before % PIECE_ROWS
    reached = local - LOOK_BACK + before // PIECE_ROWS >= 0
    own = number * BLOCK + np.arange(BLOCK)
    window = np.concatenate([np.where(reached, history, number * BLOCK), own], axis=1)
    new = valid & (np.arange(BLOCK) >= OVERLAP)
    places = np.concatenate([np.arange(count) for count in counts])
    arrays = (inputs, valid, window, np.concatenate([reached, valid], axis=1), own[new], places)
    return Plan(*(torch.from_numpy(array) for array in arrays))


class Layers:
    """The encoder's layers as one call. Weights in bfloat16 make it compute in that; results are float32 again."""

    def __init__(self, encoder: SanmEncoder) -> None:
        self.encoder = encoder

    def __call__(self, x: Tensor, valid: Tensor, window: Tensor, seen: Tensor) -> Tensor:
        x = x.to(self.encoder.encoders0[0].self_attn.linear_out.weight.dtype)
        return run_layers(self.encoder, x, valid, window, seen).float()


def cut(encoder: SanmEncoder, rows: Tensor, positions: Tensor, plan: Plan) -> Tensor:
    """Rows (n, 560), scaled and with ``positions`` (places, 560) added, in blocks: (blocks, 9, 560)."""
    rows = rows * math.sqrt(encoder.output_size()) + positions[plan.places]
    return functional.pad(rows, (0, 0, 1, 0))[plan.inputs]


def run_layers(encoder: SanmEncoder, x: Tensor, valid: Tensor, window: Tensor, seen: Tensor) -> Tensor:
    """Every layer over every block, (blocks, 9, 560) -> (blocks, 9, output_size). Nothing here depends on data."""
    mask = seen[:, None, None]  # (blocks, 1, 1, 25)
    for layer in [*encoder.encoders0, *encoder.encoders]:
        attended = _attend(layer.self_attn, layer.norm1(x), valid[..., None], window, mask)
        x = x + attended if layer.in_size == layer.size else attended
        x = x + layer.feed_forward(layer.norm2(x))
    return x


def finish(encoder: SanmEncoder, x: Tensor, plan: Plan) -> Tensor:
    """Each row's result out of its block, (blocks, 9, size) -> (n, size)."""
    return encoder.after_norm(x.flatten(0, 1)[plan.outputs])


def position_table(places: int, depth: int) -> Tensor:
    """Sines and cosines at geometric periods from 2 pi to 20 000 pi, (places, depth), counted from 1.

    Made on the CPU for every device: late places turn a device's rounding of the frequencies into other angles.
    """
    steps = torch.arange(depth // 2, dtype=torch.float32)
    frequencies = torch.exp(steps * (-math.log(10_000) / (depth / 2 - 1)))
    angles = torch.arange(1, places + 1, dtype=torch.float32)[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def _attend(attention: Any, x: Tensor, valid: Tensor, window: Tensor, mask: Tensor) -> Tensor:
    """Attention over the window plus the FSMN memory over the block, (blocks, 9, in) -> (blocks, 9, size)."""
    heads, size = attention.h, attention.h * attention.d_k
    query, pair = attention.linear_q_k_v(x).split((size, 2 * size), dim=-1)
    seen = pair.flatten(0, 1).index_select(0, window.flatten())  # keys and values in one gather
    seen = seen.view(-1, WINDOW, 2, heads, attention.d_k)
    key, value = seen.permute(2, 0, 3, 1, 4)
    query = query.view(-1, BLOCK, heads, attention.d_k).transpose(1, 2)
    out = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    out = attention.linear_out(out.transpose(1, 2).flatten(2))
    own = pair[..., size:] * valid  # the convolution sees zeros beyond the clip's end
    return out + attention.forward_fsmn(own, None)
