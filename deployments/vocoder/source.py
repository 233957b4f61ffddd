"""HiFT's excitation: a sum of nine harmonics where there is pitch, noise where there is none (NSF, SineGen2).

The published generator accumulates phase at frame rate and interpolates it linearly. It also draws initial phases,
but adds them to a sample that the interpolation never reads, so there are none here. Its nine Gaussian noises reach
the output only as one weighted sum; a single draw with the same variance stands for them.
"""

import torch
from torch import nn

from deployments.vocoder.sizes import HiftSizes


class Source(nn.Module):
    """f0 to the excitation."""

    def __init__(self, sizes: HiftSizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.l_linear = nn.Linear(sizes.harmonics + 1, 1)

    def forward(self, f0: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """f0 in Hz (batch, frames), noise ~ N(0, 1) (batch, samples) -> (batch, samples) in [-1, 1]"""
        sizes, frame = self.sizes, self.sizes.frame
        voiced = (f0 > sizes.voiced_threshold).to(f0.dtype)
        weight = self.l_linear.weight[0]
        tone = sizes.sine_amplitude * (harmonics(f0, sizes) * weight[:, None]).sum(1)
        quiet, loud = sizes.noise_amplitude, sizes.sine_amplitude / 3
        amplitude = (voiced * quiet + (1 - voiced) * loud) * weight.norm()
        voiced, amplitude = (x[:, :, None].expand(-1, -1, frame).flatten(1) for x in (voiced, amplitude))
        return torch.tanh(tone * voiced + amplitude * noise + self.l_linear.bias)


def harmonics(f0: torch.Tensor, sizes: HiftSizes) -> torch.Tensor:
    """Sines of f0 and its overtones: (batch, frames) -> (batch, harmonics + 1, samples).

    Phase is accumulated in double precision and whole turns are dropped before it is multiplied up to samples, so
    that it stays exact for clips of any length.
    """
    order = torch.arange(1, sizes.harmonics + 2, device=f0.device)
    turns = (f0[:, None] * order[:, None] / sizes.sample_rate) % 1  # per sample: (batch, harmonics + 1, frames)
    reached = torch.cumsum(turns.double(), dim=2) * sizes.frame
    step = turns * sizes.frame
    after = (torch.arange(sizes.frame, device=f0.device) + 0.5) / sizes.frame - 0.5  # of a frame's middle, in frames
    following = torch.cat([step[..., 1:], torch.zeros_like(step[..., :1])], dim=2)
    preceding = torch.cat([torch.zeros_like(step[..., :1]), step[..., 1:]], dim=2)
    slope = torch.where(after < 0, preceding[..., None], following[..., None])
    phase = (reached % 1).to(f0.dtype)[..., None] + slope * after  # (batch, harmonics + 1, frames, frame)
    return torch.sin(2 * torch.pi * phase).flatten(2)
