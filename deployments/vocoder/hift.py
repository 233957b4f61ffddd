"""Mel spectrogram to samples (HiFTNet, arXiv:2309.09493): a neural source filter whose last step is an inverse STFT.

Convolutions look both ways, so in a batch of different lengths what lies past a clip's end is set to zero before
each of them; a batch then equals its single clips.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

from deployments.vocoder.f0 import F0Predictor
from deployments.vocoder.sizes import HiftSizes
from deployments.vocoder.source import Source
from deployments.vocoder.spectrum import Spectrum

_LOUDEST = 100.0


class Snake(nn.Module):
    """x + sin(alpha x)^2 / alpha (arXiv:2006.08195)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.empty(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, channels, t) -> the same"""
        alpha = self.alpha[:, None]
        return x + (x * alpha).sin().square() / (alpha + 1e-9)


class ResBlock(nn.Module):
    """Pairs of convolutions, the first of each dilated, with Snake before both."""

    def __init__(self, channels: int, kernel: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(_same(channels, kernel, dilation) for dilation in dilations)
        self.convs2 = nn.ModuleList(_same(channels, kernel, 1) for _ in dilations)
        self.activations1 = nn.ModuleList(Snake(channels) for _ in dilations)
        self.activations2 = nn.ModuleList(Snake(channels) for _ in dilations)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """x (batch, channels, t), mask (batch, 1, t) -> the same, zero where masked; x must be so already"""
        rounds = zip(self.convs1, self.convs2, self.activations1, self.activations2, strict=True)
        for dilated, plain, before, between in rounds:
            y = _masked(dilated(before(x)), mask)
            x = x + _masked(plain(between(y)), mask)
        return x


class Hift(nn.Module):
    """The generator under its published names. ``fold`` after loading, before use."""

    spectrum: Spectrum

    def __init__(self, sizes: HiftSizes) -> None:
        super().__init__()
        self.sizes = sizes
        channels = [sizes.channels // 2**index for index in range(len(sizes.upsample_rates) + 1)]
        self.m_source = Source(sizes)
        self.conv_pre = weight_norm(nn.Conv1d(sizes.mel, channels[0], 7, padding=3))
        self.ups = nn.ModuleList()
        self.source_downs = nn.ModuleList()
        self.source_resblocks = nn.ModuleList()
        self.resblocks = nn.ModuleList()
        for index, width in enumerate(channels[1:]):
            self._add_stage(index, channels[index], width)
        self.conv_post = weight_norm(nn.Conv1d(channels[-1], sizes.n_fft + 2, 7, padding=3))
        self.f0_predictor = F0Predictor(sizes.mel, sizes.f0_channels)

    def _add_stage(self, index: int, before: int, width: int) -> None:
        sizes = self.sizes
        rate, kernel = sizes.upsample_rates[index], sizes.upsample_kernels[index]
        self.ups.append(weight_norm(nn.ConvTranspose1d(before, width, kernel, rate, padding=(kernel - rate) // 2)))
        down = 1  # from the source's spectrum to this stage's rate
        for later in sizes.upsample_rates[index + 1 :]:
            down *= later
        bins = sizes.n_fft + 2
        shrink = nn.Conv1d(bins, width, 2 * down, down, padding=down // 2) if down > 1 else nn.Conv1d(bins, width, 1)
        self.source_downs.append(shrink)
        self.source_resblocks.append(ResBlock(width, sizes.source_kernels[index], sizes.source_dilations[index]))
        self.resblocks.extend(ResBlock(width, *shape) for shape in zip(sizes.kernels, sizes.dilations, strict=True))

    def fold(self) -> None:
        """Multiply weight norms out and lay out the Fourier basis."""
        for module in self.modules():
            if parametrize.is_parametrized(module, "weight"):
                parametrize.remove_parametrizations(module, "weight")
        self.spectrum = Spectrum(self.sizes.n_fft, self.sizes.hop, self.conv_pre.weight.device)

    def excite(self, mel: torch.Tensor, noise: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """The source for a mel: (batch, bands, frames), noise (batch, samples) -> (batch, samples)"""
        mask = None if lengths is None else _valid(lengths, mel.shape[2])
        return self.m_source(self.f0_predictor(mel, mask), noise)

    def forward(self, mel: torch.Tensor, source: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """mel (batch, bands, frames), source (batch, samples), lengths (batch,) in frames where they differ
        -> samples (batch, 480 * frames), zero past a clip's end"""
        frames = lengths if lengths is not None else mel.new_full((len(mel),), mel.shape[2], dtype=torch.long)
        samples = frames * self.sizes.frame
        excitation = self.spectrum.analyse(source, samples)
        mask = None if lengths is None else _valid(lengths, mel.shape[2])
        x = self.conv_pre(_masked(mel, mask))
        for stage in range(len(self.ups)):
            x = self._stage(stage, x, excitation, lengths)
        x = self.conv_post(F.leaky_relu(x))
        bins = self.sizes.n_fft // 2 + 1
        magnitude, phase = x[:, :bins].exp().clamp(max=_LOUDEST), x[:, bins:].sin()
        spectrum = torch.cat([magnitude * phase.cos(), magnitude * phase.sin()], dim=1)
        limit = self.sizes.limit
        return self.spectrum.synthesise(spectrum, samples).clamp(-limit, limit)

    def _stage(
        self, index: int, x: torch.Tensor, excitation: torch.Tensor, lengths: torch.Tensor | None
    ) -> torch.Tensor:
        """Upsample, add the source, and average the residual blocks."""
        last = index == len(self.ups) - 1
        x = self.ups[index](_masked(F.leaky_relu(x, self.sizes.slope), self._mask(index, x, lengths, False)))
        x = F.pad(x, (1, 0), mode="reflect") if last else x
        mask = self._mask(index + 1, x, lengths, last)
        x = _masked(x, mask)
        down = self.source_downs[index](_masked(excitation, self._mask(len(self.ups), excitation, lengths, True)))
        x = x + self.source_resblocks[index](_masked(down, mask), mask)
        count = len(self.sizes.kernels)
        blocks = self.resblocks[index * count : (index + 1) * count]
        return torch.stack([block(x, mask) for block in blocks]).mean(0)

    def _mask(self, stage: int, x: torch.Tensor, lengths: torch.Tensor | None, extra: bool) -> torch.Tensor | None:
        """Valid positions at a stage's rate; the last stage has one position more."""
        if lengths is None:
            return None
        for rate in self.sizes.upsample_rates[:stage]:
            lengths = lengths * rate
        return _valid(lengths + int(extra), x.shape[2])


def _same(channels: int, kernel: int, dilation: int) -> nn.Module:
    return weight_norm(nn.Conv1d(channels, channels, kernel, dilation=dilation, padding=(kernel - 1) * dilation // 2))


def _valid(lengths: torch.Tensor, longest: int) -> torch.Tensor:
    return (torch.arange(longest, device=lengths.device) < lengths[:, None])[:, None]


def _masked(x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    return x if mask is None else x * mask
