"""VQ06, the "semantic" codebook: whisper log-mel -> 25 codes a second, in torch and batched.

The published S3 tokenizer is an ONNX graph that takes one clip at a time. This is the same network with the graph's
weights (see s3_weights): padding is masked before each convolution and in attention, so a batch gives what its clips
give alone.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

BANDS = 128
PIECE = 480_000  # 30 s at 16 kHz
SHORTEST_PIECE = 480


@dataclass(frozen=True)
class S3Sizes:
    """width: of the transformer. heads, blocks: of it. positions: the longest input. codes: of the codebook."""

    width: int
    heads: int
    blocks: int
    positions: int
    codes: int


def pieces(signal: Tensor) -> list[Tensor]:
    """A signal (n,) at 16 kHz in pieces of 30 s; a piece under 480 samples is dropped."""
    return [piece for piece in signal.split(PIECE) if len(piece) >= SHORTEST_PIECE]


class S3Block(nn.Module):
    """Attention and MLP, each after its norm and added to its input."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attn_ln = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp_ln = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """x: (batch, frames, width); mask: (batch, 1, 1, frames), False where a clip has ended."""
        qkv = self.qkv(self.attn_ln(x)).unflatten(-1, (3, self.heads, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # (batch, heads, frames, size) each
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.down(functional.gelu(self.up(self.mlp_ln(x))))


class S3(nn.Module):
    """Two convolutions of stride 2, a transformer, and the nearest of the codes on the unit sphere."""

    codebook: Tensor
    offsets: Tensor

    def __init__(self, sizes: S3Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.conv1 = nn.Conv1d(BANDS, sizes.width, 3, stride=2, padding=1)
        self.conv2 = nn.Conv1d(sizes.width, sizes.width, 3, stride=2, padding=1)
        self.positional_embedding = nn.Parameter(torch.empty(sizes.positions, sizes.width))
        self.blocks = nn.ModuleList(S3Block(sizes.width, sizes.heads) for _ in range(sizes.blocks))
        self.register_buffer("codebook", torch.empty(sizes.width, sizes.codes))
        self.register_buffer("offsets", torch.empty(sizes.codes), persistent=False)

    def forward(self, mels: list[Tensor]) -> list[Tensor]:
        """Log-mels (128, frames) of any lengths -> codes (ceil(ceil(frames / 2) / 2),) int64 each."""
        lengths = [mel.shape[1] for mel in mels]
        x = self.conv2(self._conv1(mels, lengths))
        lengths = [_halved(_halved(length)) for length in lengths]
        x = functional.gelu(x).transpose(1, 2)  # (batch, frames, width)
        x = x + self.positional_embedding[: x.shape[1]]
        mask = _mask(lengths, x.device)
        x = x.to(self.blocks[0].out.weight.dtype)  # type: ignore[union-attr, arg-type]
        for block in self.blocks:
            x = block(x, mask[:, None, None] if mask is not None else None)
        return [row[:length] for row, length in zip(self._nearest(x.float()), lengths, strict=True)]

    def _conv1(self, mels: list[Tensor], lengths: list[int]) -> Tensor:
        longest = max(lengths)
        x = torch.stack([functional.pad(mel, (0, longest - mel.shape[1])) for mel in mels])
        x = functional.gelu(self.conv1(x))
        mask = _mask([_halved(length) for length in lengths], x.device)
        return x if mask is None else x * mask[:, None]

    def _nearest(self, x: Tensor) -> Tensor:
        x = functional.normalize(x, dim=-1)
        return (self.offsets - 2 * x @ self.codebook).argmin(-1)


def _halved(length: int) -> int:
    return (length + 1) // 2


def _mask(lengths: list[int], device: torch.device) -> Tensor | None:
    """(batch, frames), False beyond each length; None where all are equal and nothing needs masking."""
    longest = max(lengths)
    if min(lengths) == longest:
        return None
    return (torch.arange(longest) < torch.tensor(lengths)[:, None]).to(device)
