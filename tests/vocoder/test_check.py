import shutil
from pathlib import Path

import torch

from deployments.checkpoint import Layout
from deployments.vocoder.check import check


def test_a_whole_checkpoint_has_no_problems_and_its_extra_tensor_is_noted(layout: Layout) -> None:
    report = check(layout)
    assert report.problems == []
    assert len(report.notes) == 1 and "hift.pt" in report.notes[0]


def test_all_problems_of_a_folder_are_reported(layout: Layout, tmp_path: Path) -> None:
    folder = tmp_path / "Step-Audio-EditX" / "CosyVoice-300M-25Hz"
    folder.mkdir(parents=True)
    shutil.copy(layout.cosyvoice / "cosyvoice.yaml", folder)
    torch.save({"encoder_proj.weight": torch.zeros(1)}, folder / "flow.pt")
    report = check(Layout(tmp_path))
    assert f"{folder / 'hift.pt'}: missing" in report.problems
    assert any("encoder_proj.weight has shape [1]" in problem for problem in report.problems)
    assert any("encoder_proj.bias [80] is missing" in problem for problem in report.problems)


def test_a_file_that_is_no_weights_is_a_problem(layout: Layout, tmp_path: Path) -> None:
    folder = tmp_path / "Step-Audio-EditX" / "CosyVoice-300M-25Hz"
    shutil.copytree(layout.cosyvoice, folder)
    (folder / "hift.pt").write_bytes(b"nothing")
    assert [problem for problem in check(Layout(tmp_path)).problems if "not a file of weights" in problem]


def test_an_empty_folder_is_a_problem(tmp_path: Path) -> None:
    assert len(check(Layout(tmp_path)).problems) == 3
