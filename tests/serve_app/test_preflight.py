import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from deployments.errors import CheckpointError
from serve_app.config import AppArgs
from serve_app.preflight import check

ROOT = Path(__file__).parents[2]


@pytest.fixture
def models(tiny_models: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(tiny_models, tmp_path / "models"))


def run(models: Path, folder: Path) -> "subprocess.CompletedProcess[str]":
    config = folder / "serve.yaml"
    config.write_text(yaml.safe_dump({"applications": [{"args": {"models": str(models)}}]}))
    command = [sys.executable, "-m", "serve_app.preflight", str(config)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_whole_checkpoint_may_be_served(tiny_models: Path, tmp_path: Path) -> None:
    result = run(tiny_models, tmp_path)
    assert result.returncode == 0 and "base, bnb, awq can be served" in result.stdout


def test_a_damaged_checkpoint_stops_the_start_with_one_message_that_names_everything(
    models: Path, tmp_path: Path
) -> None:
    cosyvoice = models / "Step-Audio-EditX" / "CosyVoice-300M-25Hz"
    (cosyvoice / "hift.pt").unlink()
    (cosyvoice / "flow.pt").write_bytes(b"cos\nsystem\n(S'echo bad'\ntR.")
    (models / "Step-Audio-Tokenizer" / "linguistic_tokenizer.npy").unlink()
    result = run(models, tmp_path)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert result.stderr.count("checkpoint not usable") == 1
    assert all(name in result.stderr for name in ("hift.pt", "flow.pt", "linguistic_tokenizer.npy"))


def test_only_what_is_there_is_deployed_unless_it_is_asked_for(models: Path) -> None:
    shutil.rmtree(models / "Step-Audio-EditX-bnb-4bit")
    assert check(AppArgs(models=models)) == ["base", "awq"]
    with pytest.raises(CheckpointError, match="bnb"):
        check(AppArgs(models=models, variants=["base", "bnb"]))


def test_one_variant_alone_is_enough(models: Path) -> None:
    shutil.rmtree(models / "Step-Audio-EditX-bnb-4bit")
    shutil.rmtree(models / "Step-Audio-EditX")
    assert check(AppArgs(models=models)) == ["awq"]
    shutil.rmtree(models / "Step-Audio-EditX-AWQ-4bit")
    with pytest.raises(CheckpointError, match="no language model"):
        check(AppArgs(models=models))
