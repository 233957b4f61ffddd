"""Small models with golden weights, and the small published-layout checkpoint."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from deployments.checkpoint import Layout
from deployments.types import Reference
from deployments.vocoder.hift import Hift
from deployments.vocoder.model import Settings, Synthesizer, load
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
def golden_synthesizer(layout: Layout, flow_golden: Tensors, hift_golden: Tensors) -> Synthesizer:
    """Flow and HiFT with the weights of their own goldens; their sizes are the small checkpoint's."""
    flow, hift = build(*read_sizes(layout.cosyvoice / "cosyvoice.yaml"))
    flow.load_state_dict(_weights(flow_golden), assign=True)
    hift.load_state_dict(_weights(hift_golden), assign=True)
    return Synthesizer(flow.requires_grad_(False), hift.requires_grad_(False), Settings())


@pytest.fixture(scope="session")
def hift(golden_synthesizer: Synthesizer) -> Hift:
    return golden_synthesizer.hift


def _weights(golden: Tensors) -> Tensors:
    return {name.removeprefix("weight."): tensor for name, tensor in golden.items() if name.startswith("weight.")}
