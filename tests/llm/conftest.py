from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from deployments.llm.loading import Options, load_weights, make_runner
from deployments.llm.runner import Runner, Vocabulary
from deployments.llm.tokenizer import Step1Tokenizer
from deployments.llm.weights import Weights

GOLDENS = Path(__file__).parents[1] / "goldens"
BASE = GOLDENS / "pipeline" / "models" / "Step-Audio-EditX"


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Tiny tensors only lose by threads."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def expected() -> dict[str, torch.Tensor]:
    """What the reference computes from the small checkpoint."""
    return load_file(GOLDENS / "pipeline" / "expected.safetensors")


@pytest.fixture(scope="session")
def tokenizer() -> Step1Tokenizer:
    return Step1Tokenizer(BASE)


@pytest.fixture(scope="session")
def base_weights() -> Weights:
    return load_weights(BASE, torch.device("cpu"), torch.float32)


@pytest.fixture
def runner(base_weights: Weights, tokenizer: Step1Tokenizer) -> Runner:
    return make_runner(base_weights, Vocabulary(tokenizer.audio, tokenizer.stops), Options(slots=8, max_length=1024))
