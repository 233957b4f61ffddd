"""The whole encoder on a checkpoint that no script of this project wrote."""

import numpy as np
import pytest
import torch

from deployments.checkpoint import Layout
from deployments.encoder.encoder import Encoder
from deployments.encoder.load import load
from deployments.encoder.options import EncoderOptions
from deployments.errors import InvalidInputError, StageError
from deployments.types import Clip, Reference
from tests.encoder.conftest import Tensors, noise


def test_the_golden_clip_gives_every_golden_number(encoder: Encoder, speech: Clip, pipeline_goldens: Tensors) -> None:
    reference = encoder.encode_batch([speech])[0]
    _equals_golden(reference, pipeline_goldens)
    assert reference.duration == pytest.approx(speech.duration)


@pytest.mark.parametrize(
    "options",
    [EncoderOptions(vq02_mode="reference"), EncoderOptions(s3_backend="onnx"), EncoderOptions(speaker_backend="torch")],
)
def test_every_backend_gives_every_golden_number(
    options: EncoderOptions, layout: Layout, speech: Clip, pipeline_goldens: Tensors
) -> None:
    _equals_golden(load(layout, torch.device("cpu"), options).encode_batch([speech])[0], pipeline_goldens)


def test_a_batch_of_mixed_rates_and_lengths_equals_its_clips(encoder: Encoder, speech: Clip) -> None:
    clips = [noise(0.5, 8000), noise(1.7, 44_100, channels=2), speech, noise(3.1, 192_000), noise(2.2, 48_000)]
    for clip, together in zip(clips, encoder.encode_batch(clips), strict=True):
        alone = encoder.encode_batch([clip])[0]
        np.testing.assert_array_equal(together.vq02, alone.vq02)
        np.testing.assert_array_equal(together.vq06, alone.vq06)
        np.testing.assert_allclose(together.mel, alone.mel, atol=1e-4)
        np.testing.assert_allclose(together.speaker, alone.speaker, atol=1e-4)


def test_a_clip_over_30_seconds_is_encoded_in_pieces(encoder: Encoder) -> None:
    reference = encoder.encode_batch([noise(31.0)])[0]
    assert len(reference.vq06) == pytest.approx(31.0 * 25, abs=10)
    assert len(reference.vq02) == pytest.approx(31.0 * 16.67, abs=6)


def test_bad_clips_fail_alone(encoder: Encoder, speech: Clip, pipeline_goldens: Tensors) -> None:
    silent = Clip(np.zeros((1, 16_000), dtype=np.float32), 16_000)
    outcomes = encoder.encode_outcomes([silent, speech, noise(0.01), speech])
    assert isinstance(outcomes[0], InvalidInputError) and outcomes[0].code == "audio_silent"
    assert isinstance(outcomes[2], InvalidInputError) and outcomes[2].code == "audio_too_short"
    for outcome in (outcomes[1], outcomes[3]):
        assert isinstance(outcome, Reference)
        _equals_golden(outcome, pipeline_goldens)


def test_a_clip_that_breaks_the_network_fails_alone(
    encoder: Encoder, speech: Clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    healthy = encoder.speaker

    def broken(fbanks: list[torch.Tensor]) -> list[torch.Tensor]:
        if any(len(fbank) < 100 for fbank in fbanks):
            raise RuntimeError("a kernel failed")
        return healthy(fbanks)

    monkeypatch.setattr(encoder, "speaker", broken)
    outcomes = encoder.encode_outcomes([speech, noise(0.5), speech])
    assert [type(outcome) for outcome in outcomes] == [Reference, StageError, Reference]


def _equals_golden(reference: Reference, goldens: Tensors) -> None:
    np.testing.assert_array_equal(reference.vq02, goldens["vq02"])
    np.testing.assert_array_equal(reference.vq06, goldens["vq06"])
    np.testing.assert_array_equal(reference.codes, goldens["mixed"])
    np.testing.assert_allclose(reference.mel, goldens["mel"][0], atol=1e-3)
    np.testing.assert_allclose(reference.speaker, goldens["speaker"][0], atol=1e-3)
    assert reference.vq02.dtype == reference.vq06.dtype == np.int32
    assert reference.mel.dtype == reference.speaker.dtype == np.float32
