"""An encoder with random weights of a preset's sizes, built in memory on the device."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deployments.encoder import paraformer
from deployments.encoder.campplus import CamPlus
from deployments.encoder.encoder import Encoder
from deployments.encoder.frontend import ROW_SIZE
from deployments.encoder.s3 import S3, S3Sizes
from deployments.encoder.vq02 import Vq02
from deployments.types import VQ02_CODES, VQ06_CODES, Clip

POSITIONS = 1500


@dataclass(frozen=True)
class Sizes:
    """VQ02's and VQ06's width, heads and blocks, and the width of the speaker network."""

    vq02: tuple[int, int, int]
    s3: tuple[int, int, int]
    speaker: int


PRESETS = {
    "tiny": Sizes((64, 4, 4), (64, 4, 2), 16),
    "demo": Sizes((128, 4, 12), (256, 4, 4), 32),
    "full": Sizes((512, 4, 50), (1280, 20, 6), 128),
}


def random_encoder(preset: str, device: torch.device, seed: int = 0) -> Encoder:
    """The encoder on ``device``; every network float32, nothing recorded yet."""
    sizes = PRESETS[preset]
    generator = torch.Generator(device).manual_seed(seed)
    width, heads, blocks = sizes.vq02
    shape = {"output_size": width, "attention_heads": heads, "linear_units": 4 * width, "num_blocks": blocks}
    network = paraformer.build(shape | {"kernel_size": 11, "sanm_shfit": 0})
    centroids = torch.randn(VQ02_CODES, width, device=device, generator=generator)
    cmvn = torch.stack([torch.full((ROW_SIZE,), -8.0), torch.full((ROW_SIZE,), 0.16)])
    with torch.device("meta"):
        s3 = S3(S3Sizes(*sizes.s3, POSITIONS, VQ06_CODES))
        speaker = CamPlus(sizes.speaker, sizes.speaker // 4, sizes.speaker)
    _randomise(s3, device, generator)
    s3.offsets = s3.codebook.square().sum(0)
    tokens02 = Vq02(_randomise(network, device, generator), cmvn, centroids)
    return Encoder(tokens02, s3, _randomise(speaker, device, generator), device)


def speech_like(seconds: float, seed: int, rate: int = 24_000) -> Clip:
    """Noise through a drifting resonance, loud and quiet four times a second: (1, n)."""
    generator = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    pitch = 120 + 40 * np.sin(2 * np.pi * 0.4 * time + seed)
    tone = np.sin(2 * np.pi * np.cumsum(pitch) / rate) + 0.5 * np.sin(6 * np.pi * np.cumsum(pitch) / rate)
    samples = (tone + 0.3 * generator.normal(size=len(time))) * (0.2 + 0.15 * np.sin(8 * np.pi * time))
    return Clip(samples[None].astype(np.float32), rate)


def _randomise(module: nn.Module, device: torch.device, generator: torch.Generator) -> Any:
    """Weights that keep an activation's size from layer to layer."""
    module.to_empty(device=device).eval().requires_grad_(False)
    for name, tensor in module.state_dict().items():
        _fill(name, tensor, generator)
    return module


def _fill(name: str, tensor: Tensor, generator: torch.Generator) -> None:
    if tensor.dim() > 1:
        tensor.normal_(0, 1 / math.sqrt(math.prod(tensor.shape[1:])), generator=generator)
    else:
        tensor.fill_(1.0 if name.endswith("weight") else 0.0)
