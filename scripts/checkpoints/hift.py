"""Names and shapes of hift.pt, and what makes its random weights sound."""

import math

import torch

from deployments.checkpoint import Shapes
from scripts.checkpoints.presets import HiftSizes
from scripts.checkpoints.weights import Source

MELS = 80
HARMONICS = 9
UPSAMPLE_RATES = (8, 5, 3)
UPSAMPLE_KERNELS = (16, 11, 7)
RESBLOCK_KERNELS = (3, 7, 11)
SOURCE_KERNELS = (7, 7, 11)
DILATIONS = 3
SPECTRUM = 18  # n_fft 16: 9 magnitudes and 9 phases
LOUDNESS, TILT = -1.6, 3.0  # log magnitude of the lowest band of the spectrum, and its fall to the highest
DYNAMICS = 0.15  # how strongly the magnitudes move; their exponential is taken
PITCH_HZ = 160.0
PITCH_SPREAD_HZ = 50.0


def state(sizes: HiftSizes, source: Source) -> dict[str, torch.Tensor]:
    """hift.pt, audible and far from clipping: a falling spectrum, a pitch around PITCH_HZ that moves with the mel."""
    weights = dict(source.state(shapes(sizes)))
    for index, rate in enumerate(UPSAMPLE_RATES):
        weights[f"ups.{index}.parametrizations.weight.original0"] *= math.sqrt(rate / 2)
    magnitudes = SPECTRUM // 2
    weights["conv_post.bias"][:magnitudes] += torch.linspace(LOUDNESS, LOUDNESS - TILT, magnitudes)
    weights["conv_post.parametrizations.weight.original0"][:magnitudes] *= DYNAMICS
    weights["f0_predictor.classifier.weight"] *= PITCH_SPREAD_HZ
    weights["f0_predictor.classifier.bias"] += PITCH_HZ
    return weights


def shapes(sizes: HiftSizes) -> Shapes:
    """Every tensor that the generator needs, weight norm spelled as torch's parametrizations."""
    stages = [sizes.channels // 2**index for index in range(len(UPSAMPLE_RATES) + 1)]
    found: Shapes = {"m_source.l_linear.weight": (1, HARMONICS), "m_source.l_linear.bias": (1,)}
    found |= _normed("conv_pre", sizes.channels, MELS, 7)
    for index, kernel in enumerate(UPSAMPLE_KERNELS):
        found |= _normed(f"ups.{index}", stages[index], stages[index + 1], kernel, bias=stages[index + 1])
    found |= _source_downs(stages)
    for index, kernel in enumerate(SOURCE_KERNELS):
        found |= _resblock(f"source_resblocks.{index}", stages[index + 1], kernel)
    for index in range(len(UPSAMPLE_RATES) * len(RESBLOCK_KERNELS)):
        stage, kernel = divmod(index, len(RESBLOCK_KERNELS))
        found |= _resblock(f"resblocks.{index}", stages[stage + 1], RESBLOCK_KERNELS[kernel])
    return found | _normed("conv_post", SPECTRUM, stages[-1], 7) | _f0_predictor(sizes.f0_channels)


def _source_downs(stages: list[int]) -> Shapes:
    """The source's spectrum, brought down to each stage's rate."""
    found: Shapes = {}
    for index in range(len(UPSAMPLE_RATES)):
        rate = math.prod(UPSAMPLE_RATES[index + 1 :])
        kernel = 1 if rate == 1 else 2 * rate
        found[f"source_downs.{index}.weight"] = (stages[index + 1], SPECTRUM, kernel)
        found[f"source_downs.{index}.bias"] = (stages[index + 1],)
    return found


def _resblock(name: str, channels: int, kernel: int) -> Shapes:
    found: Shapes = {}
    for part in ("convs1", "convs2"):
        for index in range(DILATIONS):
            found |= _normed(f"{name}.{part}.{index}", channels, channels, kernel)
    for part in ("activations1", "activations2"):
        for index in range(DILATIONS):
            found[f"{name}.{part}.{index}.alpha"] = (channels,)
    return found


def _f0_predictor(channels: int) -> Shapes:
    found: Shapes = {}
    for index in range(5):
        found |= _normed(f"f0_predictor.condnet.{2 * index}", channels, channels if index else MELS, 3)
    return found | {"f0_predictor.classifier.weight": (1, channels), "f0_predictor.classifier.bias": (1,)}


def _normed(name: str, first: int, second: int, kernel: int, bias: int | None = None) -> Shapes:
    """A weight-normed convolution: original0 holds the norms of original1's slices along its first axis."""
    return {
        f"{name}.bias": (first if bias is None else bias,),
        f"{name}.parametrizations.weight.original0": (first, 1, 1),
        f"{name}.parametrizations.weight.original1": (first, second, kernel),
    }
