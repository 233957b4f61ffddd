"""flow.pt and hift.pt: what they must hold, and loading them.

Weight norm is spelled two ways in checkpoints: as parametrizations (``parametrizations.weight.original0`` and ``1``)
and, in older files, as ``weight_g`` and ``weight_v``. Both are read.
"""

from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from deployments.checkpoint import Shapes, load_pickle, mismatches
from deployments.errors import CheckpointError
from deployments.vocoder.flow import Flow
from deployments.vocoder.hift import Hift
from deployments.vocoder.sizes import FlowSizes, HiftSizes

_SPELLINGS = {".weight_g": ".parametrizations.weight.original0", ".weight_v": ".parametrizations.weight.original1"}
Model = TypeVar("Model", Flow, Hift)


def build(flow: FlowSizes, hift: HiftSizes) -> tuple[Flow, Hift]:
    """Both models without weights, on the meta device."""
    with torch.device("meta"):
        return Flow(flow).eval(), Hift(hift).eval()


def expected_shapes(model: nn.Module) -> Shapes:
    """Names and shapes that a model's file must hold."""
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def respell(name: str) -> str:
    """A tensor's name in the current spelling of weight norm."""
    for old, new in _SPELLINGS.items():
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


def load(model: Model, path: Path, device: torch.device) -> Model:
    """Give a model from ``build`` its weights.

    Tensors that the model does not need are left out. Raises CheckpointError naming every tensor that is missing
    or has another shape.
    """
    found = {respell(name): tensor for name, tensor in load_pickle(path).items()}
    expected = expected_shapes(model)
    problems = mismatches(path, expected, {name: tuple(tensor.shape) for name, tensor in found.items()})
    if problems:
        raise CheckpointError(problems)
    model.load_state_dict({name: found[name].float() for name in expected}, strict=True, assign=True)
    model.requires_grad_(False).to(device)
    return model
