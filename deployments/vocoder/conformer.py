"""The token encoder (UpsampleConformerEncoderV2): 25 Hz token embeddings to 50 Hz hidden frames.

Self-attention with relative positions over everything seen so far; the only look into the future is a convolution
over the next three tokens. Whole clips and chunks of a stream go through the same code: a chunk brings the keys and
values of what came before it.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from deployments.vocoder.relative import Attention, relative_positions
from deployments.vocoder.rows import tails, valid
from deployments.vocoder.sizes import ConformerSizes

_LAYER_EPS = 1e-12


@dataclass(frozen=True)
class ConformerMemory:
    """What a stream's next chunk needs of the earlier ones; also what a chunk adds to it.

    lookahead: (batch, 2, hidden), the last inputs of the second look-ahead convolution. upsample: (batch, 4, hidden),
    of the upsampling convolution. tokens: (blocks, 2, batch, heads, n, head_dim), keys and values at 25 Hz; frames:
    the same at 50 Hz. lengths: (batch,) tokens of each row when they differ; rows then end together, padded in front.
    """

    lookahead: torch.Tensor
    upsample: torch.Tensor
    tokens: torch.Tensor
    frames: torch.Tensor
    lengths: torch.Tensor | None = None


class FeedForward(nn.Module):
    """Two linear layers with SiLU."""

    def __init__(self, sizes: ConformerSizes) -> None:
        super().__init__()
        self.w_1 = nn.Linear(sizes.hidden, sizes.feed_forward)
        self.w_2 = nn.Linear(sizes.feed_forward, sizes.hidden)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, t, hidden) -> the same"""
        return self.w_2(F.silu(self.w_1(x)))


class Layer(nn.Module):
    """Pre-norm attention and feed-forward; this conformer has no convolution module."""

    def __init__(self, sizes: ConformerSizes) -> None:
        super().__init__()
        self.self_attn = Attention(sizes)
        self.feed_forward = FeedForward(sizes)
        self.norm_ff = nn.LayerNorm(sizes.hidden, eps=_LAYER_EPS)
        self.norm_mha = nn.LayerNorm(sizes.hidden, eps=_LAYER_EPS)

    def forward(
        self,
        x: torch.Tensor,
        positions: torch.Tensor,
        mask: torch.Tensor | None,
        past: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As Attention."""
        mixed, present = self.self_attn(self.norm_mha(x), positions, mask, past)
        x = x + mixed
        return x + self.feed_forward(self.norm_ff(x)), present


class Embed(nn.Module):
    """Linear and norm, scaled up by sqrt(hidden)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.scale = math.sqrt(hidden)
        self.out = nn.Sequential(nn.Linear(width, hidden), nn.LayerNorm(hidden))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, t, width) -> (batch, t, hidden)"""
        return self.out(x) * self.scale


class Lookahead(nn.Module):
    """Mixes each position with the next three, then with the two before, beside a residual path."""

    def __init__(self, sizes: ConformerSizes) -> None:
        super().__init__()
        self.length = sizes.lookahead
        self.conv1 = nn.Conv1d(sizes.hidden, sizes.hidden, sizes.lookahead + 1)
        self.conv2 = nn.Conv1d(sizes.hidden, sizes.hidden, 3)

    def forward(
        self, x: torch.Tensor, lengths: torch.Tensor | None, past: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """x (batch, t + lookahead, hidden) -> (batch, t, hidden), and the second convolution's last inputs"""
        ahead = F.leaky_relu(self.conv1(x.transpose(1, 2))).transpose(1, 2)
        ahead = F.pad(ahead, (0, 0, 2, 0)) if past is None else torch.cat([past, ahead], dim=1)
        mixed = self.conv2(ahead.transpose(1, 2)).transpose(1, 2)
        return mixed + x[:, : -self.length], tails(ahead, 2, lengths)


class Upsample(nn.Module):
    """Every position twice, then a causal convolution over five."""

    def __init__(self, sizes: ConformerSizes) -> None:
        super().__init__()
        self.stride = sizes.upsample
        self.conv = nn.Conv1d(sizes.hidden, sizes.hidden, 2 * sizes.upsample + 1)

    def forward(
        self, x: torch.Tensor, lengths: torch.Tensor | None, past: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(batch, t, hidden) -> (batch, 2 * t, hidden), and the convolution's last inputs"""
        x = x[:, :, None].expand(-1, -1, self.stride, -1).flatten(1, 2)
        context = 2 * self.stride
        x = F.pad(x, (0, 0, context, 0)) if past is None else torch.cat([past, x], dim=1)
        return self.conv(x.transpose(1, 2)).transpose(1, 2), tails(x, context, lengths)


class Conformer(nn.Module):
    """The whole encoder."""

    def __init__(self, sizes: ConformerSizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.embed = Embed(sizes.input, sizes.hidden)
        self.pre_lookahead_layer = Lookahead(sizes)
        self.encoders = nn.ModuleList(Layer(sizes) for _ in range(sizes.blocks))
        self.up_layer = Upsample(sizes)
        self.up_embed = Embed(sizes.input, sizes.hidden)
        self.up_encoders = nn.ModuleList(Layer(sizes) for _ in range(sizes.up_blocks))
        self.after_norm = nn.LayerNorm(sizes.hidden)

    def forward(
        self,
        x: torch.Tensor,
        known: torch.Tensor | None = None,
        lengths: torch.Tensor | None = None,
        past: ConformerMemory | None = None,
    ) -> tuple[torch.Tensor, ConformerMemory]:
        """Encode clips, or the next chunks of streams.

        x (batch, t + lookahead, input): token embeddings; the last ``lookahead`` only inform those before them.
        known (batch,): how many of a row's tokens exist, where some do not: after a clip's end there are none to look
        ahead to. lengths (batch,): valid outputs of each row where they differ, in tokens.
        -> (batch, 2 * t, hidden), and what this adds to the memory; rows padded behind
        """
        x = self.embed(x)
        if known is not None:
            x = x * valid(known, x.shape[1])[:, :, None]
        x, lookahead = self.pre_lookahead_layer(x, lengths, None if past is None else past.lookahead)
        seen = None if past is None else past.lengths
        x, tokens = self._layers(self.encoders, x, lengths, None if past is None else past.tokens, seen)
        rate = self.sizes.upsample
        lengths, seen = (None if count is None else count * rate for count in (lengths, seen))
        x, upsample = self.up_layer(x, lengths, None if past is None else past.upsample)
        x = self.up_embed(x)
        x, frames = self._layers(self.up_encoders, x, lengths, None if past is None else past.frames, seen)
        return self.after_norm(x), ConformerMemory(lookahead, upsample, tokens, frames)

    def _layers(
        self,
        layers: nn.ModuleList,
        x: torch.Tensor,
        lengths: torch.Tensor | None,
        past: torch.Tensor | None,
        seen: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        length, before = x.shape[1], 0 if past is None else past.shape[4]
        positions = relative_positions(before, length, x.shape[2], x.device).to(x.dtype)
        mask = _mask(len(x), length, before, lengths, seen, x.device)
        new = []
        for index, layer in enumerate(layers):
            x, kept = layer(x, positions, mask, None if past is None else past[index])
            new.append(kept)
        return x, torch.stack(new)


def _mask(
    batch: int,
    length: int,
    before: int,
    lengths: torch.Tensor | None,
    seen: torch.Tensor | None,
    device: torch.device,
) -> torch.Tensor | None:
    """Keys that exist: (batch, 1, 1, before + length); None where all do."""
    if lengths is None and seen is None:
        return None
    everywhere = torch.ones(batch, before + length, dtype=torch.bool, device=device)
    old = everywhere[:, :before] if seen is None else valid(seen, before).flip(1)
    new = everywhere[:, before:] if lengths is None else valid(lengths, length)
    return torch.cat([old, new], dim=1)[:, None, None]
