import json
from pathlib import Path

import pytest
import torch

from deployments.checkpoint import Layout, load_pickle
from deployments.errors import CheckpointError
from deployments.vocoder.sizes import PUBLISHED_FLOW, PUBLISHED_HIFT, read_sizes
from deployments.vocoder.weights import build, expected_shapes, load

GOLDENS = Path(__file__).parent.parent / "goldens"
CPU = torch.device("cpu")


def test_published_sizes_have_the_published_names_and_shapes() -> None:
    published = json.loads((GOLDENS / "state_dict_shapes.json").read_text())
    for name, model in zip(("flow.pt", "hift.pt"), build(PUBLISHED_FLOW, PUBLISHED_HIFT), strict=True):
        assert {key: list(shape) for key, shape in expected_shapes(model).items()} == published[name]


def test_old_spelling_of_weight_norm_gives_the_same_model(layout: Layout, tmp_path: Path) -> None:
    sizes = read_sizes(layout.cosyvoice / "cosyvoice.yaml")
    current = load_pickle(layout.cosyvoice / "hift.pt")
    old = {_old_name(name): tensor.clone() for name, tensor in current.items()}
    assert old.keys() != current.keys()
    torch.save(old, tmp_path / "hift.pt")
    models = [load(build(*sizes)[1], path, CPU) for path in (layout.cosyvoice / "hift.pt", tmp_path / "hift.pt")]
    for name, tensor in models[0].state_dict().items():
        assert torch.equal(tensor, models[1].state_dict()[name])


def test_missing_and_misshapen_tensors_are_all_named(layout: Layout, tmp_path: Path) -> None:
    flow, _ = build(*read_sizes(layout.cosyvoice / "cosyvoice.yaml"))
    content = dict(load_pickle(layout.cosyvoice / "flow.pt"))
    del content["encoder_proj.bias"]
    content["encoder_proj.weight"] = torch.zeros(2, 3)
    torch.save(content, tmp_path / "flow.pt")
    with pytest.raises(CheckpointError) as caught:
        load(flow, tmp_path / "flow.pt", CPU)
    assert "encoder_proj.bias [80] is missing" in str(caught.value)
    assert "encoder_proj.weight has shape [2, 3], expected [80, 64]" in str(caught.value)


def _old_name(name: str) -> str:
    for current, old in (
        ("parametrizations.weight.original0", "weight_g"),
        ("parametrizations.weight.original1", "weight_v"),
    ):
        name = name.replace(current, old)
    return name
