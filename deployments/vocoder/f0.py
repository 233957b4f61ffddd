"""The pitch that HiFT's source follows, predicted from the mel spectrogram."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

LAYERS = 5


class F0Predictor(nn.Module):
    """Five convolutions and a linear layer."""

    def __init__(self, bands: int, channels: int) -> None:
        super().__init__()
        convolutions = {
            str(2 * index): weight_norm(nn.Conv1d(channels if index else bands, channels, 3, padding=1))
            for index in range(LAYERS)
        }
        self.condnet = nn.ModuleDict(convolutions)
        self.classifier = nn.Linear(channels, 1)

    def forward(self, mel: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """mel (batch, bands, 1, frames), mask (batch, 1, 1, frames) -> f0 in Hz (batch, frames); zero where masked"""
        x = mel if mask is None else mel * mask
        for convolution in self.condnet.values():
            x = F.elu(convolution(x))
            x = x if mask is None else x * mask
        f0 = self.classifier(x.squeeze(2).transpose(1, 2)).squeeze(2).abs()
        return f0 if mask is None else f0 * mask[:, 0, 0]
