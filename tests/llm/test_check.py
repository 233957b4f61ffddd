import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from deployments.checkpoint import Layout
from deployments.errors import CheckpointError
from deployments.llm.check import check
from deployments.llm.loading import load_weights
from tests.llm.conftest import BASE

FILES = ("config.json", "model.safetensors", "tokenizer.model", "modeling_step1.py")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path)
    layout.variant("base").mkdir()
    for name in FILES:
        shutil.copy(BASE / name, layout.variant("base"))
    return layout


def rewrite(layout: Layout, **changes: torch.Tensor | None) -> None:
    path = layout.variant("base") / "model.safetensors"
    tensors = load_file(path)
    for name, value in changes.items():
        if value is None:
            del tensors[name]
        else:
            tensors[name] = value
    save_file(tensors, path)


def test_a_whole_folder_has_no_problems(layout: Layout):
    report = check(layout, "base")
    assert (report.problems, report.notes) == ([], [])


def test_every_problem_is_named_at_once_and_extra_tensors_are_noted(layout: Layout):
    changes = {"lm_head.weight": None, "model.norm.weight": torch.ones(95), "rotary.inv_freq": torch.ones(3)}
    rewrite(layout, **changes)
    (layout.variant("base") / "tokenizer.model").unlink()
    report = check(layout, "base")
    assert len(report.problems) == 3
    assert "lm_head.weight [5952, 96] is missing" in report.problems[0] + report.problems[1]
    assert any("model.norm.weight has shape [95], expected [96]" in problem for problem in report.problems)
    assert any("tokenizer.model" in problem for problem in report.problems)
    assert "rotary.inv_freq" in report.notes[0]


@pytest.mark.parametrize(
    "content", ["", "[]", '{"model_type": "llama"}', '{"model_type": "step1", "hidden_size": "x"}']
)
def test_a_bad_config_is_a_problem(layout: Layout, content: str):
    (layout.variant("base") / "config.json").write_text(content)
    assert any("config.json" in problem for problem in check(layout, "base").problems)


def test_a_bad_weight_file_is_a_problem(layout: Layout):
    (layout.variant("base") / "model.safetensors").write_bytes(b"not weights")
    assert any("not a safetensors file" in problem for problem in check(layout, "base").problems)


def test_a_missing_variant_is_a_problem(layout: Layout):
    assert any("config.json" in problem for problem in check(layout, "awq").problems)


def test_loading_refuses_what_the_check_finds(layout: Layout):
    rewrite(layout, **{"lm_head.weight": None})
    with pytest.raises(CheckpointError, match=r"lm_head\.weight"):
        load_weights(layout.variant("base"), torch.device("cpu"), torch.float32)


def test_a_head_tied_to_the_embedding_is_refused(layout: Layout):
    tensors = load_file(layout.variant("base") / "model.safetensors")
    rewrite(layout, **{"lm_head.weight": tensors["model.embed_tokens.weight"].clone()})
    with pytest.raises(CheckpointError, match="never tied"):
        load_weights(layout.variant("base"), torch.device("cpu"), torch.float32)


def test_weights_may_lie_in_several_files(layout: Layout):
    folder = layout.variant("base")
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[:9], "model-00002-of-00002.safetensors": names[9:]}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, folder / file)
    index = {"weight_map": {name: file for file, part in parts.items() for name in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert check(layout, "base").problems == []
    loaded = load_weights(folder, torch.device("cpu"), torch.float32)
    assert torch.equal(loaded.head, tensors["lm_head.weight"].float())
