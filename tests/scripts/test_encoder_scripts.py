"""The exported VQ02 network equals torch, serves the encoder, and two encoders' agreement is printed."""

from pathlib import Path

import numpy as np
import pytest
import torch

from deployments.checkpoint import Layout
from deployments.encoder.load import load
from deployments.encoder.options import EncoderOptions
from deployments.types import Clip, Reference
from scripts import encoder_agreement, export_vq02

GOLDENS = Path(__file__).parents[1] / "goldens"
MODELS = GOLDENS / "pipeline" / "models"


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "vq02.onnx"
    export_vq02.main(["--models", str(MODELS), "--out", str(path)])
    return path


def test_the_exported_graph_gives_the_codes_of_torch_for_any_number_of_clips(graph: Path) -> None:
    plain = load(Layout(MODELS), torch.device("cpu"))
    exported = load(Layout(MODELS), torch.device("cpu"), EncoderOptions(vq02_graph=graph))
    random = np.random.default_rng(0)
    clips = [Clip(random.normal(0, 0.2, (1, n)).astype(np.float32), 16_000) for n in (8000, 31_000, 50_123)]
    for one, other in zip(plain.encode_batch(clips), exported.encode_batch(clips), strict=True):
        np.testing.assert_array_equal(one.vq02, other.vq02)


def test_agreement_counts_equal_tokens_and_missing_ones_as_different() -> None:
    mel, speaker = np.zeros((1, 80), np.float32), np.zeros(192, np.float32)
    first = Reference(np.array([1, 2, 3, 4]), np.arange(6), mel, speaker, 1.0)
    second = Reference(np.array([1, 9, 3]), np.arange(6), mel, speaker, 1.0)
    assert encoder_agreement.agreement([first], [second], "vq02") == 0.5
    assert encoder_agreement.agreement([first], [second], "vq06") == 1.0


def test_two_ways_to_run_one_checkpoint_are_compared(capsys: pytest.CaptureFixture[str]) -> None:
    clip = str(GOLDENS / "speech_24k.wav")
    encoder_agreement.main([str(MODELS), f"{MODELS}:vq02_mode=reference,s3_backend=onnx", clip])
    printed = capsys.readouterr().out
    assert printed.count("100.00% equal") == 3 and printed.count("ms a clip") == 2
