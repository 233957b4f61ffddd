"""Spectral features: goldens, Kaldi's own code, and that a batch is its clips."""

import kaldi_native_fbank
import numpy as np
import pytest
import torch

from deployments.encoder.features import KaldiFbank, MelSpectrogram, WhisperMel
from tests.encoder.conftest import Tensors, noise


def test_mel_is_the_golden(audio_goldens: Tensors, feature_goldens: Tensors) -> None:
    mel = MelSpectrogram()([audio_goldens["prompt_24k"][0]])[0]
    torch.testing.assert_close(mel, feature_goldens["mel_24k"][0], atol=1e-3, rtol=0)


def test_whisper_mel_is_the_golden(audio_goldens: Tensors, feature_goldens: Tensors) -> None:
    mel = WhisperMel()([audio_goldens["preprocessed_16k"][0]])[0]
    torch.testing.assert_close(mel, feature_goldens["whisper_log_mel"], atol=1e-3, rtol=0)


def test_fbank_without_its_mean_is_the_golden(audio_goldens: Tensors, feature_goldens: Tensors) -> None:
    fbank = KaldiFbank("povey")([audio_goldens["resampled_16k"][0]])[0]
    torch.testing.assert_close(fbank - fbank.mean(0), feature_goldens["campplus_fbank"], atol=1e-3, rtol=0)


@pytest.mark.parametrize(("window", "scale"), [("povey", 1.0), ("hamming", 32768.0)])
def test_fbank_equals_kaldi(window: str, scale: float) -> None:
    signal = noise(0.7).samples[0]
    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.dither, options.frame_opts.window_type, options.mel_opts.num_bins = 0, window, 80
    extractor = kaldi_native_fbank.OnlineFbank(options)
    extractor.accept_waveform(16_000, (signal * scale).tolist())
    expected = np.stack([extractor.get_frame(i) for i in range(extractor.num_frames_ready)])
    fbank = KaldiFbank(window, scale)([torch.from_numpy(signal)])[0]
    torch.testing.assert_close(fbank, torch.from_numpy(expected), atol=2e-3, rtol=0)


@pytest.mark.parametrize("feature", [MelSpectrogram(), WhisperMel(), KaldiFbank("povey")])
def test_a_batch_equals_its_clips(feature: torch.nn.Module) -> None:
    signals = [torch.from_numpy(noise(seconds, seed=i).samples[0]) for i, seconds in enumerate((0.4, 1.3, 0.9))]
    for signal, together in zip(signals, feature(signals), strict=True):
        torch.testing.assert_close(together, feature([signal])[0], atol=1e-5, rtol=0)
