"""Goldens and a loaded encoder, shared by the encoder's tests."""

import wave
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from deployments.checkpoint import Layout
from deployments.encoder.encoder import Encoder
from deployments.encoder.load import load
from deployments.types import Clip

GOLDENS = Path(__file__).parents[1] / "goldens"
MODELS = GOLDENS / "pipeline" / "models"
Tensors = dict[str, torch.Tensor]


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Tiny tensors are quicker without threads."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def audio_goldens() -> Tensors:
    return load_file(GOLDENS / "audio_preprocess.safetensors")


@pytest.fixture(scope="session")
def feature_goldens() -> Tensors:
    return load_file(GOLDENS / "features.safetensors")


@pytest.fixture(scope="session")
def pipeline_goldens() -> Tensors:
    return load_file(GOLDENS / "pipeline" / "expected.safetensors")


@pytest.fixture(scope="session")
def layout() -> Layout:
    """The small checkpoint in the published layout."""
    return Layout(MODELS)


@pytest.fixture(scope="session")
def encoder(layout: Layout) -> Encoder:
    return load(layout, torch.device("cpu"))


@pytest.fixture(scope="session")
def speech() -> Clip:
    """The golden clip, 4.2 s at 24 kHz."""
    with wave.open(str(GOLDENS / "speech_24k.wav")) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), dtype=np.int16)
        return Clip(samples[None].astype(np.float32) / 32768, file.getframerate())


def noise(seconds: float, rate: int = 16_000, seed: int = 0, channels: int = 1) -> Clip:
    """A clip of noise whose loudness swells and fades."""
    count = round(seconds * rate)
    swell = 0.2 + 0.2 * np.sin(np.arange(count) * (2 * np.pi / rate))
    samples = np.random.default_rng(seed).normal(0, 1, (channels, count)) * swell
    return Clip(samples.clip(-1, 1).astype(np.float32), rate)
