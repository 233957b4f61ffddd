"""Short-time Fourier transform and its inverse as convolutions, for clips of different lengths in one batch.

The same numbers as torch.stft and torch.istft with a centred Hann window. As convolutions with a fixed basis they
need no complex numbers and can be captured into a CUDA graph; each clip's end is reflected and normalised on its
own, so that a batch equals its single clips.
"""

import math

import torch
import torch.nn.functional as F


class Spectrum:
    """Both directions for one n_fft and hop. A spectrum is (batch, n_fft + 2, frames): real parts, then imaginary."""

    def __init__(self, n_fft: int, hop: int, device: torch.device) -> None:
        self.n_fft, self.hop = n_fft, hop
        window = torch.hann_window(n_fft, device=device)
        bins = torch.arange(n_fft // 2 + 1, device=device)[:, None]
        angles = 2 * math.pi / n_fft * (bins * torch.arange(n_fft, device=device) % n_fft)
        basis = torch.cat([angles.cos(), -angles.sin()]) * window
        twice = torch.full_like(basis[:, :1], 2.0)
        twice[[0, n_fft // 2, n_fft // 2 + 1, -1]] = 1.0
        self._analysis = basis[:, None]
        self._synthesis = (basis * twice / n_fft)[:, None]
        self._window = window.square()[None, None]

    def analyse(self, samples: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """samples (batch, n), lengths (batch,) -> (batch, n_fft + 2, n / hop + 1); frames past an end mean nothing"""
        half = self.n_fft // 2
        index = torch.arange(-half, samples.shape[1] + half, device=samples.device).abs()
        last = lengths[:, None] - 1
        index = torch.where(index > last, 2 * last - index, index).clamp(min=0)
        return F.conv1d(samples.gather(1, index)[:, None], self._analysis, stride=self.hop)

    def synthesise(self, spectrum: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """spectrum (batch, n_fft + 2, frames), lengths (batch,) in samples -> (batch, n), zero past an end"""
        frames = torch.arange(spectrum.shape[2], device=spectrum.device) <= (lengths // self.hop)[:, None]
        present = frames[:, None].to(spectrum.dtype)
        summed = F.conv_transpose1d(spectrum * present, self._synthesis, stride=self.hop)[:, 0]
        envelope = F.conv_transpose1d(present, self._window, stride=self.hop)[:, 0]
        half = self.n_fft // 2
        samples = (summed / envelope.clamp(min=1e-11))[:, half:-half]
        return samples * (torch.arange(samples.shape[1], device=samples.device) < lengths[:, None])
