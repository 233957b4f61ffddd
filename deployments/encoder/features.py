"""Spectral features for many clips at once: the vocoder's mel, the whisper log-mel, Kaldi's filter banks.

Each takes a list of signals of any lengths and works on all their frames together: one Fourier transform and one
matrix product per batch, on whatever device the signals are. Frames do not depend on their neighbours, so a batch
gives what single clips give.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

MEL_BANDS = 80
MEL_FFT, MEL_HOP = 1920, 480
WHISPER_BANDS = 128
WHISPER_FFT, WHISPER_HOP = 400, 160
KALDI_BANDS = 80
KALDI_FRAME, KALDI_HOP, KALDI_FFT = 400, 160, 512
KALDI_LOW, KALDI_HIGH = 20.0, 8000.0
PREEMPHASIS = 0.97


class MelSpectrogram(nn.Module):
    """The vocoder's mel: 24 kHz (n,) -> (n // 480, 80), natural log of magnitudes in slaney bands up to 8 kHz."""

    window: Tensor
    bands: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(MEL_FFT))
        self.register_buffer("bands", slaney_bands(24_000, MEL_FFT, MEL_BANDS, 8000.0).T.contiguous())

    def forward(self, signals: list[Tensor]) -> list[Tensor]:
        margin = (MEL_FFT - MEL_HOP) // 2
        frames = [_frames(_reflect(signal, margin), MEL_FFT, MEL_HOP) for signal in signals]
        spectrum = torch.fft.rfft(torch.cat(frames).mul_(self.window))
        magnitude = (torch.view_as_real(spectrum).square_().sum(-1) + 1e-9).sqrt()
        return _split((magnitude @ self.bands).clamp(min=1e-5).log(), frames)


class WhisperMel(nn.Module):
    """Whisper's log-mel: 16 kHz (n,) -> (128, n // 160), each clip limited to 8 decades below its loudest value."""

    window: Tensor
    bands: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(WHISPER_FFT))
        self.register_buffer("bands", slaney_bands(16_000, WHISPER_FFT, WHISPER_BANDS, 8000.0).T.contiguous())

    def forward(self, signals: list[Tensor]) -> list[Tensor]:
        frames = [_frames(_reflect(signal, WHISPER_FFT // 2), WHISPER_FFT, WHISPER_HOP)[:-1] for signal in signals]
        power = torch.view_as_real(torch.fft.rfft(torch.cat(frames).mul_(self.window))).square_().sum(-1)
        mels = _split((power @ self.bands).clamp(min=1e-10).log10(), frames)
        return [(torch.maximum(mel, mel.amax() - 8.0).T + 4.0) / 4.0 for mel in mels]


class KaldiFbank(nn.Module):
    """Kaldi's log filter banks: 16 kHz (n,) -> ((n - 400) // 160 + 1, 80), without dither.

    Args:
        window: "povey" or "hamming".
        scale: what samples are multiplied with; Kaldi's own range is that of 16-bit integers.
    """

    window: Tensor
    bands: Tensor

    def __init__(self, window: str, scale: float = 1.0) -> None:
        super().__init__()
        shape = {
            "povey": torch.hann_window(KALDI_FRAME, periodic=False).pow(0.85),
            "hamming": torch.hamming_window(KALDI_FRAME, periodic=False),
        }
        self.register_buffer("window", shape[window] * scale)  # everything before the power is linear
        self.register_buffer("bands", kaldi_bands().T.contiguous())

    def forward(self, signals: list[Tensor]) -> list[Tensor]:
        split = [_frames(signal, KALDI_FRAME, KALDI_HOP) for signal in signals]
        frames = torch.cat(split)
        frames -= frames.mean(dim=1, keepdim=True)
        previous = torch.cat([frames[:, :1], frames[:, :-1]], dim=1)
        frames = torch.sub(frames, previous, alpha=PREEMPHASIS).mul_(self.window)
        power = torch.view_as_real(torch.fft.rfft(frames, n=KALDI_FFT)).square_().sum(-1)
        return _split((power @ self.bands).clamp(min=torch.finfo(torch.float32).eps).log(), split)


def slaney_bands(sample_rate: int, fft: int, bands: int, high: float) -> Tensor:
    """Triangles of equal area on Slaney's mel scale from 0 to ``high`` Hz, (bands, fft // 2 + 1), as librosa's."""
    frequencies = torch.linspace(0, sample_rate / 2, fft // 2 + 1, dtype=torch.float64)
    edges = _slaney_to_hertz(torch.linspace(0, _hertz_to_slaney(high), bands + 2, dtype=torch.float64))
    widths = edges.diff()
    slopes = edges[:, None] - frequencies
    rising, falling = -slopes[:-2] / widths[:-1, None], slopes[2:] / widths[1:, None]
    triangles = torch.minimum(rising, falling).clamp(min=0)
    return (triangles * (2 / (edges[2:] - edges[:-2]))[:, None]).float()


def kaldi_bands() -> Tensor:
    """Triangles on Kaldi's mel scale from 20 to 8000 Hz, (80, 257); they are straight in mel, not in Hertz."""
    low, high = (1127 * math.log(1 + frequency / 700) for frequency in (KALDI_LOW, KALDI_HIGH))
    edges = torch.linspace(low, high, KALDI_BANDS + 2, dtype=torch.float64)[:, None]
    bins = torch.arange(KALDI_FFT // 2 + 1, dtype=torch.float64) * (16_000 / KALDI_FFT)
    mels = 1127 * torch.log1p(bins / 700)
    width = edges[1, 0] - edges[0, 0]
    triangles = torch.minimum(mels - edges[:-2], edges[2:] - mels) / width
    triangles[:, -1] = 0  # Kaldi leaves out the highest frequency
    return triangles.clamp(min=0).float()


def _hertz_to_slaney(hertz: float) -> float:
    """Linear up to 1 kHz (15 mel), then logarithmic with 27 mel to a factor of 6.4."""
    return 3 * hertz / 200 if hertz < 1000 else 15 + 27 * math.log(hertz / 1000) / math.log(6.4)


def _slaney_to_hertz(mels: Tensor) -> Tensor:
    return torch.where(mels < 15, mels * (200 / 3), 1000 * torch.exp((mels - 15) * (math.log(6.4) / 27)))


def _frames(signal: Tensor, size: int, hop: int) -> Tensor:
    return signal.unfold(0, size, hop)  # (frames, size)


def _reflect(signal: Tensor, margin: int) -> Tensor:
    return functional.pad(signal[None], (margin, margin), mode="reflect")[0]


def _split(rows: Tensor, like: list[Tensor]) -> list[Tensor]:
    return list(rows.split([len(part) for part in like]))
