"""Preparation of a clip: goldens, the resampler's two ways, the trim's span."""

import math

import librosa
import numpy as np
import pytest
import torch

from deployments.encoder import audio
from deployments.errors import InvalidInputError
from deployments.types import Clip
from tests.encoder.conftest import Tensors, noise

RATES = {"44k1_to_16k": (44100, 16000), "22k05_to_16k": (22050, 16000), "8k_to_16k": (8000, 16000)}
RATES |= {"48k_to_24k": (48000, 24000)}


@pytest.mark.parametrize("name", RATES)
def test_resampling_gives_the_goldens(name: str, audio_goldens: Tensors) -> None:
    resampled = audio.resample(audio_goldens["noise"], *RATES[name])
    torch.testing.assert_close(resampled, audio_goldens[f"noise_{name}"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("rates", [(44100, 16000), (8000, 24000), (192000, 16000), (16000, 24000)])
def test_resampling_by_taps_equals_dense_filters(rates: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    signal = torch.from_numpy(noise(0.3, rates[0]).samples)
    dense = audio.resample(signal, *rates)
    monkeypatch.setattr(audio, "DENSE_FILTER_LIMIT", 0)
    torch.testing.assert_close(audio.resample(signal, *rates), dense, atol=1e-6, rtol=0)


def test_a_rate_without_common_divisor_is_resampled_in_little_memory() -> None:
    tone = torch.sin(torch.arange(47_999) * (2 * math.pi * 440 / 47_999))
    expected = torch.sin(torch.arange(16_000) * (2 * math.pi * 440 / 16_000))
    torch.testing.assert_close(audio.resample(tone, 47_999, 16_000)[50:-50], expected[50:-50], atol=2e-3, rtol=0)


def test_preparation_gives_the_goldens(audio_goldens: Tensors) -> None:
    at16 = audio.resample(audio_goldens["prompt_24k"], 24_000, 16_000)
    torch.testing.assert_close(at16, audio_goldens["resampled_16k"], atol=1e-5, rtol=0)
    trimmed = audio.trim_silence([audio.normalize_energy(at16[0])])[0]
    torch.testing.assert_close(trimmed, audio_goldens["preprocessed_16k"][0], atol=1e-5, rtol=0)


def test_the_trimmed_span_is_that_of_librosa() -> None:
    random = np.random.default_rng(0)
    signals = [np.zeros(3000, dtype=np.float32)]
    for _ in range(40):
        length = int(random.integers(400, 30_000))
        envelope = np.interp(np.arange(length), np.linspace(0, length, 9), 10 ** -random.uniform(0, 3, 9))
        signals.append((random.normal(size=length) * envelope).astype(np.float32))
    for signal, trimmed in zip(signals, audio.trim_silence([torch.from_numpy(s) for s in signals]), strict=True):
        np.testing.assert_array_equal(trimmed.numpy(), _trim_with_librosa(signal))


def test_stereo_is_mixed_and_loud_clips_are_scaled_to_the_peak_rule() -> None:
    left = np.array([0.0, 0.9, -0.3] * 2000, dtype=np.float32)
    prepared = audio.prepare(Clip(np.stack([left, 0 * left]), 16_000))
    np.testing.assert_array_equal(prepared, left / 2)  # peak 0.45: left as it is
    prepared = audio.prepare(Clip(left[None], 16_000))
    np.testing.assert_allclose(prepared, left / 0.9 * 0.6, rtol=1e-6)


def test_a_read_only_clip_is_prepared_without_touching_it() -> None:
    clip = noise(0.5)
    clip.samples.flags.writeable = False
    before = clip.samples.copy()
    audio.normalize_energy(torch.from_numpy(audio.prepare(clip)))
    np.testing.assert_array_equal(clip.samples, before)


@pytest.mark.parametrize(
    ("clip", "code"),
    [
        (noise(0.05), "audio_too_short"),
        (noise(1.0, 7_999), "invalid_sample_rate"),
        (noise(0.2, 192_001), "invalid_sample_rate"),
        (Clip(np.zeros((1, 16_000), dtype=np.float32), 16_000), "audio_silent"),
        (Clip(np.full((1, 16_000), np.nan, dtype=np.float32), 16_000), "invalid_audio"),
        (Clip(np.full((2, 16_000), np.inf, dtype=np.float32), 16_000), "invalid_audio"),
        (Clip(np.zeros((1, 0), dtype=np.float32), 16_000), "audio_too_short"),
    ],
)
def test_what_cannot_be_encoded_is_refused_with_a_code(clip: Clip, code: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        audio.prepare(clip)
    assert caught.value.code == code


def _trim_with_librosa(signal: np.ndarray) -> np.ndarray:
    start, end = librosa.effects.trim(signal, top_db=20, frame_length=512, hop_length=128)[1]
    padded = np.pad(signal, (800, len(signal) + 5000))[start:]
    return padded[: math.ceil((end - start) / 240) * 240 + 4320]
