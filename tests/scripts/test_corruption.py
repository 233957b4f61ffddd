"""What is wrong with a checkpoint is named by the rooms' checks: every file, every kind of damage, all at once."""

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from deployments.checkpoint import PARAFORMER, VARIANT_FOLDERS, Layout, Report
from deployments.encoder.check import check as check_encoder
from deployments.llm.check import check as check_llm
from deployments.vocoder.check import check as check_vocoder

TOKENIZER = "Step-Audio-Tokenizer"
ASR = f"{TOKENIZER}/dengcunqin/{PARAFORMER}"
BASE = "Step-Audio-EditX"
VOCODER = f"{BASE}/CosyVoice-300M-25Hz"
MODEL_FILES = ("config.json", "model.safetensors", "tokenizer.model")
FILES = [
    f"{ASR}/config.yaml",
    f"{ASR}/model.pt",
    f"{ASR}/am.mvn",
    f"{TOKENIZER}/speech_tokenizer_v1.onnx",
    f"{TOKENIZER}/linguistic_tokenizer.npy",
    f"{VOCODER}/cosyvoice.yaml",
    f"{VOCODER}/flow.pt",
    f"{VOCODER}/hift.pt",
    f"{VOCODER}/campplus.onnx",
    *(f"{folder}/{name}" for folder in VARIANT_FOLDERS.values() for name in MODEL_FILES),
]
PICKLES = [f"{ASR}/model.pt", f"{VOCODER}/flow.pt", f"{VOCODER}/hift.pt"]
TENSORS = {
    f"{ASR}/model.pt": "encoder.encoders.0.feed_forward.w_1.weight",
    f"{VOCODER}/flow.pt": "decoder.estimator.blocks.1.attn.to_q.weight",
    f"{VOCODER}/hift.pt": "conv_pre.parametrizations.weight.original1",
}


class Evil:
    """Unpickling this would run a command."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch executed",)


@pytest.fixture
def models(tiny_models: Path, tmp_path: Path) -> Path:
    """The tiny checkpoint to damage: its files are links, so replace them, never write into them."""
    return Path(shutil.copytree(tiny_models, tmp_path / "models", copy_function=os.link))


def check(models: Path) -> Report:
    """What all rooms say together."""
    layout = Layout(models)
    reports = [check_encoder(layout), check_vocoder(layout)]
    reports += [check_llm(layout, variant) for variant in VARIANT_FOLDERS]
    return Report([line for report in reports for line in report.problems], [n for r in reports for n in r.notes])


def problems_of(models: Path, name: str) -> list[str]:
    """What the rooms that read a file say of it."""
    layout = Layout(models)
    variants = [variant for variant, folder in VARIANT_FOLDERS.items() if name.startswith(f"{folder}/")]
    if Path(name).name in MODEL_FILES:
        reports = [check_llm(layout, variant) for variant in variants]
    else:
        reports = [check_encoder(layout), check_vocoder(layout)]
    return [line for report in reports for line in report.problems if str(models / name) in line]


def replace(path: Path, data: bytes) -> None:
    path.unlink()
    path.write_bytes(data)


def edit_state(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    state = torch.load(path, weights_only=True)
    change(state)
    path.unlink()
    torch.save(state, path)


def test_tiny_checkpoint_has_no_problems_and_notes_only_the_recogniser_around_the_encoder(tiny_models: Path) -> None:
    report = check(tiny_models)
    assert report.problems == []
    assert len(report.notes) == 1 and "model.pt" in report.notes[0] and "decoder." in report.notes[0]


@pytest.mark.parametrize("name", FILES)
def test_missing_file_is_named(models: Path, name: str) -> None:
    (models / name).unlink()
    assert [problem for problem in problems_of(models, name) if "missing" in problem]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("data", [b"", b"\x00\xff this is something else \xfe" * 50])
def test_file_of_something_else_is_named(models: Path, name: str, data: bytes) -> None:
    replace(models / name, data)
    assert problems_of(models, name)


@pytest.mark.parametrize("name", FILES)
def test_file_cut_in_half_is_named(models: Path, name: str) -> None:
    data = (models / name).read_bytes()
    replace(models / name, data[: len(data) // 2])
    assert problems_of(models, name)


@pytest.mark.parametrize("name", PICKLES)
def test_pickle_that_is_not_weights_is_refused_and_not_run(
    models: Path, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    replace(models / name, pickle.dumps({"weight": Evil()}))
    assert problems_of(models, name)
    (models / name).unlink()
    torch.save({"weight": Evil()}, models / name)
    assert problems_of(models, name)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(("name", "tensor"), TENSORS.items())
def test_missing_and_misshapen_tensors_are_named(models: Path, name: str, tensor: str) -> None:
    edit_state(models / name, lambda state: state.update({tensor: state[tensor][:-1]}))
    shape = [problem for problem in problems_of(models, name) if "shape" in problem]
    assert len(shape) == 1 and tensor.split(".")[0] in shape[0]
    edit_state(models / name, lambda state: state.pop(tensor))
    missing = [problem for problem in problems_of(models, name) if "missing" in problem]
    assert len(missing) == 1


@pytest.mark.parametrize(("name", "tensor"), TENSORS.items())
def test_extra_tensor_is_noted_and_no_problem(models: Path, name: str, tensor: str) -> None:
    before = check(models)
    edit_state(models / name, lambda state: state.update({"training_only.weight": torch.zeros(3)}))
    after = check(models)
    assert after.problems == before.problems == []
    assert after.notes != before.notes


@pytest.mark.parametrize("folder", VARIANT_FOLDERS.values())
def test_tensor_of_the_language_model_is_named(models: Path, folder: str) -> None:
    path = models / folder / "model.safetensors"
    state = load_file(path)
    del state["model.norm.weight"]
    state["model.layers.1.input_layernorm.weight"] = torch.zeros(7)
    path.unlink()
    save_file(state, path)
    problems = [problem for problem in check(models).problems if folder in problem]
    assert len(problems) == 2
    assert [problem for problem in problems if "model.norm.weight" in problem and "missing" in problem]
    assert [problem for problem in problems if "model.layers.1.input_layernorm.weight" in problem and "[7]" in problem]


@pytest.mark.parametrize("shape", [(1024, 32), (1023, 64), (1024,)])
def test_codebook_of_another_shape_is_named(models: Path, shape: tuple[int, ...]) -> None:
    path = models / TOKENIZER / "linguistic_tokenizer.npy"
    path.unlink()
    np.save(path, np.zeros(shape, dtype=np.float32))
    assert [problem for problem in check(models).problems if str(path) in problem]


def test_several_kinds_of_damage_are_named_at_once(models: Path) -> None:
    damaged = [f"{ASR}/am.mvn", f"{TOKENIZER}/speech_tokenizer_v1.onnx", f"{VOCODER}/flow.pt", f"{VOCODER}/hift.pt"]
    damaged += [f"{BASE}/tokenizer.model", f"{VARIANT_FOLDERS['awq']}/model.safetensors"]
    (models / damaged[0]).unlink()
    replace(models / damaged[1], b"no graph")
    edit_state(models / damaged[2], lambda state: state.pop(TENSORS[damaged[2]]))
    replace(models / damaged[3], pickle.dumps([1, 2, 3]))
    (models / damaged[4]).unlink()
    replace(models / damaged[5], b"no tensors")
    problems = check(models).problems
    for name in damaged:
        assert [problem for problem in problems if str(models / name) in problem], name


def test_a_folder_that_is_not_there_is_one_list_of_problems(tmp_path: Path) -> None:
    assert check(tmp_path / "nowhere").problems
