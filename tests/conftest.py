"""Checkpoints that tests share."""

from pathlib import Path

import pytest
import torch

from scripts import make_checkpoint
from scripts.checkpoints.presets import TINY

GOLDENS = Path(__file__).parent / "goldens"


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Small tensors are quicker without threads."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def golden_models() -> Path:
    """A small checkpoint in the published layout that no script of this project wrote."""
    return GOLDENS / "pipeline" / "models"


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny preset with all its variants, made once; read it, never write to it."""
    out = tmp_path_factory.mktemp("checkpoint") / "models"
    return make_checkpoint.make(TINY, out, variants=("base", "bnb", "awq")).root
