"""Token pairs to a mel spectrogram by flow matching (CausalMaskedDiffWithXvec).

Here are the parts that run once per clip or chunk: embedding, encoder, speaker, and the reference's mel resized to its
tokens. The estimator is in dit.py, the Euler solver that runs it in solver.py.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from deployments.vocoder.conformer import Conformer, ConformerMemory
from deployments.vocoder.dit import DiT
from deployments.vocoder.sizes import FlowSizes

FRAMES_PER_PAIR = 2


@dataclass(frozen=True)
class Voice:
    """What the flow takes from a reference.

    pairs (n, 2) int64; mel (2 * n, bands), resized to the pairs; speaker (width,).
    """

    pairs: torch.Tensor
    mel: torch.Tensor
    speaker: torch.Tensor


class Embedding(nn.Module):
    """One table for both codebooks; a pair is the two entries side by side."""

    def __init__(self, sizes: FlowSizes) -> None:
        super().__init__()
        self.embedding = nn.Embedding(sizes.vocabulary, sizes.embedding)

    def forward(self, pairs: torch.Tensor) -> torch.Tensor:
        """(batch, t, 2) -> (batch, t, 2 * width)"""
        return self.embedding(pairs).flatten(2)


class Decoder(nn.Module):
    """Holds the estimator under its published name."""

    def __init__(self, sizes: FlowSizes) -> None:
        super().__init__()
        self.estimator = DiT(sizes.dit)


class Flow(nn.Module):
    """The model under its published names. The solver runs the estimator."""

    def __init__(self, sizes: FlowSizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.input_embedding = Embedding(sizes)
        self.spk_embed_affine_layer = nn.Linear(sizes.speaker, sizes.mel)
        self.encoder = Conformer(sizes.conformer)
        self.encoder_proj = nn.Linear(sizes.conformer.hidden, sizes.mel)
        self.decoder = Decoder(sizes)

    def encode(
        self,
        pairs: torch.Tensor,
        known: torch.Tensor | None = None,
        lengths: torch.Tensor | None = None,
        past: ConformerMemory | None = None,
    ) -> tuple[torch.Tensor, ConformerMemory]:
        """What the estimator follows, for clips or for chunks of streams; arguments as Conformer's.

        pairs (batch, t + lookahead, 2) -> (batch, 2 * t, bands), and what this adds to the memory
        """
        hidden, added = self.encoder(self.input_embedding(pairs), known, lengths, past)
        return self.encoder_proj(hidden), added

    def speaker(self, embedding: torch.Tensor) -> torch.Tensor:
        """(batch, width) -> (batch, bands)"""
        return self.spk_embed_affine_layer(F.normalize(embedding, dim=1).to(self.spk_embed_affine_layer.weight.dtype))


def align_mel(mel: torch.Tensor, frames: int) -> torch.Tensor:
    """A reference's mel (n, bands) stretched by nearest neighbour to (frames, bands)."""
    return F.interpolate(mel.T[None], size=frames, mode="nearest")[0].T
