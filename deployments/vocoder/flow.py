"""Token pairs to a mel spectrogram by flow matching (CausalMaskedDiffWithXvec).

An Euler solver carries noise to mel in ten steps under classifier-free guidance, given the encoded tokens, the
speaker, and the reference's own mel in front of the frames to be made.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from deployments.vocoder.conformer import Conformer
from deployments.vocoder.dit import DiT
from deployments.vocoder.sizes import FlowSizes

STEPS = 10
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
    """The model under its published names. ``fold`` after loading, before use."""

    modulation: torch.Tensor

    def __init__(self, sizes: FlowSizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.input_embedding = Embedding(sizes)
        self.spk_embed_affine_layer = nn.Linear(sizes.speaker, sizes.mel)
        self.encoder = Conformer(sizes.conformer)
        self.encoder_proj = nn.Linear(sizes.conformer.hidden, sizes.mel)
        self.decoder = Decoder(sizes)

    def fold(self) -> None:
        """Compute once what is the same for every clip."""
        times = euler_times().to(self.encoder_proj.weight.device)
        self.register_buffer("modulation", self.decoder.estimator.fold(times[:-1]), persistent=False)
        self.intervals = times.diff().tolist()

    def forward(self, pairs: torch.Tensor, voice: Voice, noise: torch.Tensor) -> torch.Tensor:
        """Mel of a whole clip.

        pairs (n, 2); noise (2 * (prompt + n), bands) -> (2 * n, bands)
        """
        mu, _ = self.encoder(self.input_embedding(torch.cat([voice.pairs, pairs])[None]))
        mu = self.encoder_proj(mu)
        prompt = F.pad(voice.mel[None], (0, 0, 0, mu.shape[1] - len(voice.mel)))
        mel = self.solve(noise[None], mu, self.speaker(voice.speaker[None]), prompt)
        return mel[0, len(voice.mel) :]

    def speaker(self, embedding: torch.Tensor) -> torch.Tensor:
        """(batch, width) -> (batch, bands)"""
        return self.spk_embed_affine_layer(F.normalize(embedding, dim=1))

    def solve(self, noise: torch.Tensor, mu: torch.Tensor, speaker: torch.Tensor, prompt: torch.Tensor) -> torch.Tensor:
        """Euler steps from noise to mel; all but speaker (batch, bands) are (batch, frames, bands)."""
        estimator, guidance = self.decoder.estimator, self.sizes.guidance
        condition = estimator.condition(mu, speaker, prompt)
        x = noise
        for modulation, interval in zip(self.modulation, self.intervals, strict=True):
            velocity, _ = estimator(x, condition, modulation)
            given, free = velocity.chunk(2)
            x = x + interval * ((1 + guidance) * given - guidance * free)
        return x


def euler_times() -> torch.Tensor:
    """The solver's eleven times from 0 to 1, dense at the start: 1 - cos(pi / 2 * s)."""
    return 1 - torch.cos(torch.linspace(0, 1, STEPS + 1) * 0.5 * torch.pi)


def align_mel(mel: torch.Tensor, frames: int) -> torch.Tensor:
    """A reference's mel (n, bands) stretched by nearest neighbour to (frames, bands)."""
    return F.interpolate(mel.T[None], size=frames, mode="nearest")[0].T
