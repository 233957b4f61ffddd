"""Self-attention with relative positions (Transformer-XL, arXiv:1901.02860, section 3.3), over remembered keys too."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from deployments.vocoder.sizes import ConformerSizes

_QUERIES = 512


class Attention(nn.Module):
    """Multi-head attention with relative positions (Transformer-XL, arXiv:1901.02860, section 3.3)."""

    def __init__(self, sizes: ConformerSizes) -> None:
        super().__init__()
        hidden, head = sizes.hidden, sizes.hidden // sizes.heads
        self.heads = sizes.heads
        self.linear_q = nn.Linear(hidden, hidden)
        self.linear_k = nn.Linear(hidden, hidden, bias=sizes.key_bias)
        self.linear_v = nn.Linear(hidden, hidden)
        self.linear_out = nn.Linear(hidden, hidden)
        self.linear_pos = nn.Linear(hidden, hidden, bias=False)
        self.pos_bias_u = nn.Parameter(torch.empty(sizes.heads, head))
        self.pos_bias_v = nn.Parameter(torch.empty(sizes.heads, head))

    def forward(
        self,
        x: torch.Tensor,
        positions: torch.Tensor,
        mask: torch.Tensor | None,
        past: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """x (batch, t, hidden), positions (seen + 2 * t - 1, hidden), mask (batch, 1, 1, seen + t),
        past (2, batch, heads, seen, head_dim) -> (batch, t, hidden), and new keys and values (2, batch, ...)"""
        batch, length, _ = x.shape
        query = self._split(self.linear_q(x))
        new = torch.stack([self._split(self.linear_k(x)), self._split(self.linear_v(x))])
        key, value = new if past is None else torch.cat([past, new], dim=3)
        distance = self._split(self.linear_pos(positions)[None])
        mixed = [
            self._attend(query[:, :, start : start + _QUERIES], key, value, distance, length - start, mask)
            for start in range(0, length, _QUERIES)
        ]
        return self.linear_out(torch.cat(mixed, dim=2).transpose(1, 2).reshape(batch, length, -1)), new

    def _attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        distance: torch.Tensor,
        remaining: int,
        mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """Some queries over all keys; ``remaining`` of all queries begin with these. Few at a time save memory."""
        length, keys = query.shape[2], key.shape[2]
        first = remaining - length
        distance = distance[:, :, first : first + keys + length - 1]
        scale = 1 / math.sqrt(query.shape[-1])
        by_distance = (query + self.pos_bias_v[:, None]) @ distance.transpose(2, 3)
        bias = _relative_shift(by_distance)[..., :keys] * scale
        if mask is not None:
            bias = bias.masked_fill(~mask, float("-inf"))
        return F.scaled_dot_product_attention(query + self.pos_bias_u[:, None], key, value, bias, scale=scale)

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, t, hidden) -> (batch, heads, t, head_dim)"""
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


def relative_positions(seen: int, length: int, width: int, device: torch.device) -> torch.Tensor:
    """Sinusoids of every distance from a new position to any key, largest first: (seen + 2 * length - 1, width)."""
    distance = torch.arange(seen + length - 1, -length, -1, device=device, dtype=torch.float32)
    rates = torch.exp(torch.arange(0, width, 2, device=device) * (-math.log(10000) / width))
    angles = distance[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)


def _relative_shift(scores: torch.Tensor) -> torch.Tensor:
    """Row i of (batch, heads, t, n) moved left by t - 1 - i: from distances to keys."""
    batch, heads, length, distances = scores.shape
    padded = F.pad(scores, (1, 0)).view(batch, heads, distances + 1, length)
    return padded[:, :, 1:].reshape(batch, heads, length, distances)
