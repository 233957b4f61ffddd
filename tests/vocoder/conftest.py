"""Small models with golden weights, and the small published-layout checkpoint."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from deployments.checkpoint import Layout
from deployments.types import Reference
from deployments.vocoder.flow import Flow
from deployments.vocoder.hift import Hift
from deployments.vocoder.model import Synthesizer, load
from deployments.vocoder.sizes import read_sizes
from deployments.vocoder.weights import build

GOLDENS = Path(__file__).parent.parent / "goldens"
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def layout() -> Layout:
    return Layout(GOLDENS / "pipeline" / "models")


@pytest.fixture(scope="session")
def expected() -> Tensors:
    return load_file(GOLDENS / "pipeline" / "expected.safetensors")


@pytest.fixture(scope="session")
def synthesizer(layout: Layout) -> Synthesizer:
    return load(layout, torch.device("cpu"))


@pytest.fixture(scope="session")
def reference(expected: Tensors) -> Reference:
    return Reference(
        vq02=expected["vq02"].numpy().astype(np.int32),
        vq06=expected["vq06"].numpy().astype(np.int32),
        mel=expected["mel"][0].numpy(),
        speaker=expected["speaker"][0].numpy(),
        duration=4.2,
    )


@pytest.fixture(scope="session")
def flow_golden() -> Tensors:
    return load_file(GOLDENS / "flow.safetensors")


@pytest.fixture(scope="session")
def hift_golden() -> Tensors:
    return load_file(GOLDENS / "hift.safetensors")


@pytest.fixture(scope="session")
def flow(layout: Layout, flow_golden: Tensors) -> Flow:
    model, _ = _small(layout)
    model.load_state_dict(_weights(flow_golden), assign=True)
    model.requires_grad_(False).fold()
    return model


@pytest.fixture(scope="session")
def hift(layout: Layout, hift_golden: Tensors) -> Hift:
    _, model = _small(layout)
    model.load_state_dict(_weights(hift_golden), assign=True)
    model.requires_grad_(False).fold()
    return model


def _small(layout: Layout) -> tuple[Flow, Hift]:
    """The golden modules have the sizes of the small checkpoint."""
    return build(*read_sizes(layout.cosyvoice / "cosyvoice.yaml"))


def _weights(golden: Tensors) -> Tensors:
    return {name.removeprefix("weight."): tensor for name, tensor in golden.items() if name.startswith("weight.")}
