"""The check of a checkpoint names everything that is wrong with the encoder's part, at once."""

import shutil
from collections import OrderedDict
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from deployments.checkpoint import Layout
from deployments.encoder.check import check
from deployments.encoder.load import load
from deployments.encoder.options import EncoderOptions
from deployments.errors import CheckpointError
from tests.encoder.conftest import MODELS


@pytest.fixture
def broken(tmp_path: Path) -> Layout:
    """A copy of the checkpoint to damage."""
    shutil.copytree(MODELS, tmp_path / "models", copy_function=shutil.copyfile)
    return Layout(tmp_path / "models")


def test_the_published_layout_has_no_problems_and_its_extra_tensors_are_noted(layout: Layout) -> None:
    report = check(layout)
    assert report.problems == []
    assert len(report.notes) == 1 and "2 tensors not used" in report.notes[0]


def test_every_missing_file_is_named_at_once(tmp_path: Path) -> None:
    problems = check(Layout(tmp_path)).problems
    for name in ("config.yaml", "model.pt", "am.mvn", "linguistic_tokenizer.npy", "v1.onnx", "campplus.onnx"):
        assert sum(name in problem for problem in problems) == 1, name


def test_every_bad_tensor_is_named_at_once(broken: Layout) -> None:
    path = broken.paraformer / "model.pt"
    state = torch.load(path, weights_only=True)
    del state["encoder.after_norm.bias"]
    state["encoder.encoders.1.norm2.bias"] = torch.zeros(63)
    torch.save(OrderedDict(state), path)
    graph = onnx.load(broken.s3)
    next(t for t in graph.graph.initializer if t.name == "encoders.conv1.bias").name = "elsewhere"
    onnx.save(graph, broken.s3)
    np.save(broken.codebook, np.zeros((1024, 63), dtype=np.float32))
    problems = "\n".join(check(broken).problems)
    for words in ("encoder.after_norm.bias [64] is missing", "norm2.bias has shape [63]", "conv1.bias", "[1024, 63]"):
        assert words in problems, words


@pytest.mark.parametrize("name", ["config.yaml", "model.pt", "am.mvn"])
def test_a_file_that_is_something_else_is_a_problem_and_stops_loading(name: str, broken: Layout) -> None:
    (broken.paraformer / name).write_bytes(b"\x80\x04not what it should be")
    assert any(name in problem for problem in check(broken).problems)
    with pytest.raises(CheckpointError, match=name):
        load(broken, torch.device("cpu"))


def test_a_lighter_encoder_named_by_the_options_is_checked_in_place_of_the_published_one(tmp_path: Path) -> None:
    options = EncoderOptions(paraformer=tmp_path / "lighter", codebook=tmp_path / "centroids.npy")
    problems = check(Layout(MODELS), options).problems
    assert len(problems) == 4 and all(str(tmp_path) in problem for problem in problems)


def test_files_of_noise_are_problems_and_not_exceptions(broken: Layout) -> None:
    for path in (broken.codebook, broken.s3, broken.cosyvoice / "campplus.onnx"):
        path.write_bytes(b"noise" * 100)
    assert len(check(broken).problems) == 3


def test_a_pickle_that_is_not_weights_is_refused(broken: Layout) -> None:
    torch.save({"encoder.after_norm.bias": print}, broken.paraformer / "model.pt")
    assert any("not a file of weights" in problem for problem in check(broken).problems)


def test_another_kind_of_encoder_is_refused(broken: Layout) -> None:
    config = broken.paraformer / "config.yaml"
    config.write_text(
        config.read_text().replace("SANMEncoderChunkOpt", "ConformerEncoder").replace("lfr_n: 6", "lfr_n: 4")
    )
    problems = "\n".join(check(broken).problems)
    assert "ConformerEncoder" in problems and "lfr_n is 4" in problems
