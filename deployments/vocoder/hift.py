"""Mel spectrogram to samples (HiFTNet, arXiv:2309.09493): a neural source filter whose last step is an inverse STFT.

Convolutions look both ways, so in a batch of different lengths what lies past a clip's end is set to zero before
each of them; a batch then equals its single clips.
"""

from collections.abc import Iterable
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

from deployments.vocoder.f0 import F0Predictor
from deployments.vocoder.fused import snake
from deployments.vocoder.sizes import HiftSizes
from deployments.vocoder.source import Source
from deployments.vocoder.spectrum import Spectrum

_LOUDEST = 100.0


class Snake(nn.Module):
    """The parameter of one activation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.empty(channels))


class ResBlock(nn.Module):
    """Pairs of convolutions, the first of each dilated, with Snake before both."""

    def __init__(self, channels: int, kernel: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(_same(channels, kernel, dilation) for dilation in dilations)
        self.convs2 = nn.ModuleList(_same(channels, kernel, 1) for _ in dilations)
        self.activations1 = nn.ModuleList(Snake(channels) for _ in dilations)
        self.activations2 = nn.ModuleList(Snake(channels) for _ in dilations)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """x (batch, channels, 1, t), mask (batch, 1, 1, t) -> the same, zero where masked; x must be so already

        The convolutions' biases are added together with what follows.
        """
        branch: torch.Tensor | None = None
        bias: torch.Tensor | None = None
        residual: torch.Tensor | None = None
        rounds = zip(self.convs1, self.convs2, self.activations1, self.activations2, strict=True)
        for dilated, plain, before, between in cast(Iterable[tuple[nn.Conv2d, nn.Conv2d, Snake, Snake]], rounds):
            if branch is None:
                _, y = snake(x, before.alpha)
            else:
                x, y = snake(branch, before.alpha, bias, residual, mask)
            _, y = snake(_unbiased(dilated, y), between.alpha, dilated.bias, None, mask)
            branch, bias, residual = _unbiased(plain, y), plain.bias, x
        assert branch is not None and bias is not None and residual is not None
        return residual + _masked(branch + bias[:, None, None], mask)


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

    def fold(self, dtype: torch.dtype = torch.float32) -> None:
        """Multiply weight norms out, lay weights out for the device, and make the Fourier basis.

        Convolutions over time become those over planes one high: only these can have channels last in memory, which
        is the order that GPUs compute in. Weights and activations between the f0 predictor's, the source's and the
        spectrum's float32 take ``dtype``.
        """
        for module in list(self.modules()):
            if parametrize.is_parametrized(module, "weight"):
                parametrize.remove_parametrizations(module, "weight")
        for module in list(self.modules()):
            for name, child in module.named_children():
                if isinstance(child, nn.Conv1d | nn.ConvTranspose1d):
                    setattr(module, name, _planar(child))
        for part in (self.conv_pre, self.ups, self.source_downs, self.source_resblocks, self.resblocks, self.conv_post):
            part.to(dtype)
        self.dtype = dtype
        self.spectrum = Spectrum(self.sizes.n_fft, self.sizes.hop, self.m_source.l_linear.weight.device)

    def excite(self, mel: torch.Tensor, noise: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """The source for a mel: (batch, bands, frames), noise (batch, samples) -> (batch, samples)"""
        mask = None if lengths is None else _valid(lengths, mel.shape[2])
        return self.m_source(self.f0_predictor(mel[:, :, None], mask), noise)

    def forward(self, mel: torch.Tensor, source: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """mel (batch, bands, frames), source (batch, samples), lengths (batch,) in frames where they differ
        -> samples (batch, 480 * frames), zero past a clip's end"""
        frames = lengths if lengths is not None else mel.new_full((len(mel),), mel.shape[2], dtype=torch.long)
        samples = frames * self.sizes.frame
        excitation = self.spectrum.analyse(source, samples)[:, :, None].to(self.dtype)
        mask = None if lengths is None else _valid(lengths, mel.shape[2])
        x = self.conv_pre(_masked(mel[:, :, None].to(self.dtype), mask))
        for stage in range(len(self.ups)):
            x = self._stage(stage, x, excitation, lengths)
        x = self.conv_post(F.leaky_relu(x)).squeeze(2).float()
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
        x = torch.cat([x[..., 1:2], x], dim=3) if last else x  # reflected
        mask = self._mask(index + 1, x, lengths, last)
        x = _masked(x, mask)
        down = self.source_downs[index](_masked(excitation, self._mask(len(self.ups), excitation, lengths, True)))
        x = x + self.source_resblocks[index](_masked(down, mask), mask)
        count = len(self.sizes.kernels)
        total = torch.zeros_like(x)
        for block in self.resblocks[index * count : (index + 1) * count]:
            total += block(x, mask)
        return total / count

    def _mask(self, stage: int, x: torch.Tensor, lengths: torch.Tensor | None, extra: bool) -> torch.Tensor | None:
        """Valid positions at a stage's rate; the last stage has one position more."""
        if lengths is None:
            return None
        for rate in self.sizes.upsample_rates[:stage]:
            lengths = lengths * rate
        return _valid(lengths + int(extra), x.shape[3])


def _same(channels: int, kernel: int, dilation: int) -> nn.Module:
    return weight_norm(nn.Conv1d(channels, channels, kernel, dilation=dilation, padding=(kernel - 1) * dilation // 2))


def _planar(convolution: nn.Conv1d | nn.ConvTranspose1d) -> nn.Module:
    """A convolution over time as one over planes (1, t), on a GPU with channels last in memory."""
    kind = nn.Conv2d if isinstance(convolution, nn.Conv1d) else nn.ConvTranspose2d
    assert convolution.bias is not None and not isinstance(convolution.padding, str)
    planar = kind(
        convolution.in_channels,
        convolution.out_channels,
        (1, convolution.kernel_size[0]),
        (1, convolution.stride[0]),
        padding=(0, convolution.padding[0]),
        dilation=(1, convolution.dilation[0]),
        device="meta",
    )
    weight = convolution.weight.detach()[:, :, None]
    if weight.is_cuda:
        weight = weight.contiguous(memory_format=torch.channels_last)
    planar.weight = nn.Parameter(weight, requires_grad=False)
    planar.bias = nn.Parameter(convolution.bias.detach(), requires_grad=False)
    return planar


def _unbiased(convolution: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    return F.conv2d(x, convolution.weight, None, 1, convolution.padding, convolution.dilation)


def _valid(lengths: torch.Tensor, longest: int) -> torch.Tensor:
    """(batch, 1, 1, longest), True before each row's end"""
    return (torch.arange(longest, device=lengths.device) < lengths[:, None])[:, None, None]


def _masked(x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    return x if mask is None else x * mask
