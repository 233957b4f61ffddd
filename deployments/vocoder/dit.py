"""The flow's estimator: a diffusion transformer over mel frames whose blocks are attention, causal convolution, MLP.

The Euler solver visits the same few times for every clip, and all that depends on time is adaLN: shifts, scales and
gates. They are computed once for these times (``fold``), the layers that make them, a quarter of the weights, are
dropped, and each block's LayerNorm takes scale and shift as its weight and bias.
"""

import math
from collections.abc import Iterable
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from deployments.vocoder.fused import norm, split_heads
from deployments.vocoder.memory import Memory, Rows
from deployments.vocoder.sizes import DiTSizes

KERNEL = 3
TIME_FREQUENCIES = 256
TIME_SCALE = 1000
PER_BLOCK, PER_END = 9, 2
_EPS = 1e-6
_HEAD_EPS = 1e-5
_SCALES_IN_BLOCK = (1, 4, 7)
Pending = tuple[torch.Tensor, torch.Tensor] | None  # a gate and what is to be added through it


class TimeEmbedding(nn.Module):
    """A time in [0, 1] as a vector."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(TIME_FREQUENCIES, hidden), nn.SiLU(), nn.Linear(hidden, hidden))

    def forward(self, times: torch.Tensor) -> torch.Tensor:
        """(n,) -> (n, hidden)"""
        half = TIME_FREQUENCIES // 2
        frequencies = torch.exp(-math.log(10000) * torch.arange(half, device=times.device) / half)
        angles = times[:, None] * TIME_SCALE * frequencies
        return self.mlp(torch.cat([angles.cos(), angles.sin()], dim=-1))


class Attention(nn.Module):
    """Self-attention with normalised queries and keys, over remembered frames too."""

    def __init__(self, sizes: DiTSizes) -> None:
        super().__init__()
        inner = sizes.heads * sizes.head_dim
        self.heads = sizes.heads
        self.to_q = nn.Linear(sizes.hidden, inner)
        self.to_k = nn.Linear(sizes.hidden, inner)
        self.to_v = nn.Linear(sizes.hidden, inner)
        self.q_norm = nn.LayerNorm(sizes.head_dim)
        self.k_norm = nn.LayerNorm(sizes.head_dim)
        self.proj = nn.Linear(inner, sizes.hidden)

    def fold(self) -> None:
        """Make the three projections one, and put the norms' weights together."""
        parts = [self.to_q, self.to_k, self.to_v]
        weight, bias = torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts])
        self.to_qkv = _linear(weight, bias)
        norms: list[torch.Tensor] = [self.q_norm.weight, self.q_norm.bias, self.k_norm.weight, self.k_norm.bias]
        self.norms = nn.Parameter(torch.stack(norms), requires_grad=False)
        del self.to_q, self.to_k, self.to_v, self.q_norm, self.k_norm

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None, memory: torch.Tensor | None) -> torch.Tensor:
        """x (rows, frames, hidden) -> the same; memory (2, rows, heads, remembered + frames, head_dim) is completed"""
        rows, frames, _ = x.shape
        projected = self.to_qkv(x)
        if memory is None:
            memory = projected.new_empty(2, rows, self.heads, frames, self.norms.shape[1])
        keys, values = memory
        query = split_heads(projected, self.norms, keys, values, _HEAD_EPS)
        mixed = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
        return self.proj(mixed.transpose(1, 2).reshape(rows, frames, -1))


class CausalConvolutions(nn.Module):
    """Two convolutions that look two frames back, with a norm and Mish between them."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        convolution = {name: nn.Conv1d(hidden, hidden, KERNEL) for name in ("1", "6")}
        self.block = nn.ModuleDict({**convolution, "3": nn.LayerNorm(hidden)})

    def fold(self) -> None:
        """Make the convolutions matrix products over three neighbouring frames."""
        self.first, self.second = _over_neighbours(self.block["1"]), _over_neighbours(self.block["6"])
        between = self.block["3"]
        assert isinstance(between, nn.LayerNorm)
        self.norm: nn.LayerNorm = between
        del self.block

    def forward(self, neighbours: torch.Tensor, lengths: torch.Tensor | None, memory: Memory | None) -> torch.Tensor:
        """neighbours (rows, frames, 3 * hidden): each frame behind its two predecessors -> (rows, frames, hidden)"""
        past, ends = (memory.convolution[1], memory.ends[1]) if memory else (None, None)
        weight, bias, eps = self.norm.weight, self.norm.bias, self.norm.eps
        middle = self.first(neighbours)
        _, between = norm(middle, weight, bias, eps, mish=True, spread=True, past=past, lengths=lengths, ends=ends)
        return self.second(between)


class Mlp(nn.Module):
    """Two linear layers with a tanh-approximated GELU."""

    def __init__(self, sizes: DiTSizes) -> None:
        super().__init__()
        self.fc1 = nn.Linear(sizes.hidden, sizes.mlp)
        self.fc2 = nn.Linear(sizes.mlp, sizes.hidden)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, frames, hidden) -> the same"""
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class Block(nn.Module):
    """Attention, convolutions and MLP, each behind an adaptive norm and a gate."""

    def __init__(self, sizes: DiTSizes) -> None:
        super().__init__()
        self.attn = Attention(sizes)
        self.mlp = Mlp(sizes)
        self.conv = CausalConvolutions(sizes.hidden)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(sizes.hidden, PER_BLOCK * sizes.hidden))

    def forward(
        self, x: torch.Tensor, pending: Pending, modulation: torch.Tensor, rows: Rows | None, memory: Memory | None
    ) -> tuple[torch.Tensor, Pending]:
        """x (rows, frames, hidden) to which ``pending`` has still to be added, modulation (9, hidden) -> the same two

        memory is this block's part.
        """
        mask, lengths = (rows.mask, rows.lengths) if rows else (None, None)
        past, ends = (memory.convolution[0], memory.ends[0]) if memory else (None, None)
        attention, mlp, convolution = modulation.view(3, 3, -1)  # each: shift, 1 + scale, gate
        x, normed = norm(x, attention[1], attention[0], _EPS, pending)
        mixed = self.attn(normed, mask, memory.attention if memory else None)
        through = (attention[2], mixed)
        x, neighbours = norm(
            x, convolution[1], convolution[0], _EPS, through, spread=True, past=past, lengths=lengths, ends=ends
        )
        convolved = self.conv(neighbours, lengths, memory)
        x, normed = norm(x, mlp[1], mlp[0], _EPS, (convolution[2], convolved))
        return x, (mlp[2], self.mlp(normed))


class FinalLayer(nn.Module):
    """The last adaptive norm and the projection to mel bands."""

    def __init__(self, sizes: DiTSizes) -> None:
        super().__init__()
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(sizes.hidden, PER_END * sizes.hidden))
        self.linear = nn.Linear(sizes.hidden, sizes.output)

    def forward(self, x: torch.Tensor, pending: Pending, modulation: torch.Tensor) -> torch.Tensor:
        """x (rows, frames, hidden), modulation (2, hidden) -> (rows, frames, bands)"""
        return self.linear(norm(x, modulation[1], modulation[0], _EPS, pending)[1])


class DiT(nn.Module):
    """The estimator. Built and loaded under the published names; ``fold`` must be called before it runs."""

    def __init__(self, sizes: DiTSizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.t_embedder = TimeEmbedding(sizes.hidden)
        self.in_proj = nn.Linear(sizes.input, sizes.hidden)
        self.blocks = nn.ModuleList(Block(sizes) for _ in range(sizes.depth))
        self.final_layer = FinalLayer(sizes)

    @torch.no_grad()
    def fold(self, times: torch.Tensor) -> torch.Tensor:
        """Compute shifts, scales and gates for every time, then drop what made them.

        times (steps,) -> (steps, 9 * depth + 2, hidden); scales come as 1 + scale.
        """
        embedded = self.t_embedder(times)
        rows = []
        for block in cast(Iterable[Block], self.blocks):
            table = block.adaLN_modulation(embedded).unflatten(1, (PER_BLOCK, -1))
            table[:, _SCALES_IN_BLOCK] += 1
            rows.append(table)
            del block.adaLN_modulation
            block.attn.fold()
            block.conv.fold()
        end = self.final_layer.adaLN_modulation(embedded).unflatten(1, (PER_END, -1))
        end[:, 1] += 1
        del self.final_layer.adaLN_modulation, self.t_embedder
        return torch.cat([*rows, end], dim=1)

    def condition(self, mu: torch.Tensor, speaker: torch.Tensor, prompt: torch.Tensor) -> torch.Tensor:
        """The part of the input projection that stays the same over the Euler steps.

        mu (batch, frames, bands), speaker (batch, bands), prompt (batch, frames, bands)
        -> (2 * batch, frames, hidden): with the conditions, then without any, for classifier-free guidance.
        """
        fixed = torch.cat([mu, speaker[:, None].expand_as(mu), prompt], dim=2)
        given = F.linear(fixed, self.in_proj.weight[:, self.sizes.output :], self.in_proj.bias)
        return torch.cat([given, self.in_proj.bias.expand_as(given)])

    def forward(
        self,
        x: torch.Tensor,
        condition: torch.Tensor,
        modulation: torch.Tensor,
        rows: Rows | None = None,
        memory: Memory | None = None,
    ) -> torch.Tensor:
        """The velocity at x, (2 * batch, frames, bands): with and without conditions.

        x (batch, frames, bands), condition (2 * batch, frames, hidden), modulation (9 * depth + 2, hidden).
        """
        hidden = F.linear(x.to(condition.dtype), self.in_proj.weight[:, : self.sizes.output])
        hidden = hidden.repeat(2, 1, 1) + condition
        pending = None
        for index, block in enumerate(self.blocks):
            table = modulation[index * PER_BLOCK : (index + 1) * PER_BLOCK]
            own = memory.of_block(index) if memory else None
            hidden, pending = block(hidden, pending, table, rows, own)
        return self.final_layer(hidden, pending, modulation[-PER_END:])


def _linear(weight: torch.Tensor, bias: torch.Tensor) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    linear.weight, linear.bias = nn.Parameter(weight, requires_grad=False), nn.Parameter(bias, requires_grad=False)
    return linear


def _over_neighbours(convolution: nn.Module) -> nn.Linear:
    """A convolution over time as a linear layer over three frames side by side."""
    assert isinstance(convolution, nn.Conv1d) and convolution.bias is not None
    return _linear(convolution.weight.permute(0, 2, 1).flatten(1).contiguous(), convolution.bias)
