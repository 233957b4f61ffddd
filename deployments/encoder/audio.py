"""A reference clip's samples, before any feature: mono, peak rule, resampling, energy norm, silence trim.

The trained weights saw audio prepared in exactly this way, so the numbers here are part of the model: the
resampler's filter, for one, decides tokens.
"""

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from deployments.errors import InvalidInputError
from deployments.types import Clip

TOKEN_RATE = 16_000
MIN_RATE, MAX_RATE = 8_000, 192_000
MIN_SECONDS = 0.1
SILENT_PEAK = 1e-4
PEAK_LIMIT = 0.6

ZERO_CROSSINGS = 6
ROLLOFF = 0.99
DENSE_FILTER_LIMIT = 2**22

TRIM_FRAME, TRIM_HOP = 512, 128
TRIM_RATIO = 0.01  # 20 dB below the loudest frame, in power
POWER_FLOOR = 1e-10
TRIM_STEP = 240
KEEP_LEFT = 800
KEEP_BOTH = 4320  # 0.05 s on the left and 0.22 s on the right


def prepare(clip: Clip) -> np.ndarray:
    """Mono samples, float32 (n,), scaled to a peak of 0.6 where they exceed it.

    Raises:
        InvalidInputError: the clip cannot be encoded (rate, length, silence, numbers that are not finite).
    """
    if not MIN_RATE <= clip.sample_rate <= MAX_RATE:
        raise InvalidInputError(
            f"sample rate {clip.sample_rate} Hz is outside {MIN_RATE}..{MAX_RATE} Hz", code="invalid_sample_rate"
        )
    if clip.samples.shape[0] < 1 or clip.duration < MIN_SECONDS:
        raise InvalidInputError(
            f"audio of {clip.duration:.3f} s is too short: {MIN_SECONDS} s at least", code="audio_too_short"
        )
    samples = np.asarray(clip.samples, dtype=np.float32)
    samples = samples[0] if len(samples) == 1 else samples.mean(axis=0)
    peak = max(samples.max(), -samples.min())
    if not np.isfinite(peak):
        raise InvalidInputError("audio holds samples that are not finite numbers", code="invalid_audio")
    if peak < SILENT_PEAK:
        raise InvalidInputError("audio is silent", code="audio_silent")
    return samples / peak * np.float32(PEAK_LIMIT) if peak > PEAK_LIMIT else samples


def resample_all(signals: list[Tensor], rates: list[int], target: int) -> list[Tensor]:
    """Signals (n,) of any rates -> the same at ``target`` Hz; those of one rate go together."""
    resampled: dict[int, Tensor] = {}
    for rate in set(rates):
        members = [index for index, other in enumerate(rates) if other == rate]
        batch = resample(pad_sequence([signals[index] for index in members], batch_first=True), rate, target)
        for index, row in zip(members, batch, strict=True):
            resampled[index] = row[: -(-len(signals[index]) * target // rate)]
    return [resampled[index] for index in range(len(signals))]


def resample(signal: Tensor, source: int, target: int) -> Tensor:
    """Windowed-sinc resampling, (..., n) at ``source`` Hz -> (..., ceil(n * target / source)) at ``target`` Hz.

    A Hann window over 6 zero crossings and a roll-off of 0.99, as torchaudio's default.
    """
    if source == target:
        return signal
    divisor = math.gcd(source, target)
    source, target = source // divisor, target // divisor
    length = -(-signal.shape[-1] * target // source)
    width = _half_width(source, target)
    if target * (2 * width + source) > DENSE_FILTER_LIMIT:
        return _resample_by_taps(signal, source, target, length)
    filters = _dense_filters(source, target, signal.device)
    flat = functional.pad(signal.reshape(-1, 1, signal.shape[-1]), (width, width + source))
    out = functional.conv1d(flat, filters, stride=source)  # (batch, target, periods)
    return out.transpose(1, 2).reshape(*signal.shape[:-1], -1)[..., :length]


def _half_width(source: int, target: int) -> int:
    return math.ceil(ZERO_CROSSINGS * source / (min(source, target) * ROLLOFF))


def _sinc(offsets: Tensor, source: int, target: int) -> Tensor:
    """The filter at distances in source samples, float64: a sinc under a Hann window."""
    cutoff = min(source, target) * ROLLOFF
    crossings = (offsets * (cutoff / source)).clamp(-ZERO_CROSSINGS, ZERO_CROSSINGS)
    window = torch.cos(crossings * (math.pi / ZERO_CROSSINGS / 2)).square()
    return torch.sinc(crossings) * window * (cutoff / source)


@lru_cache(maxsize=32)
def _dense_filters(source: int, target: int, device: torch.device) -> Tensor:
    """One filter for each output sample of a period, (target, 1, 2 * width + source)."""
    width = _half_width(source, target)
    inputs = torch.arange(-width, width + source, dtype=torch.float64)
    outputs = torch.arange(target, dtype=torch.float64) * (source / target)
    return _sinc(inputs[None] - outputs[:, None], source, target).float()[:, None].to(device)


def _resample_by_taps(signal: Tensor, source: int, target: int, length: int, step: int = 2**16) -> Tensor:
    """The same numbers for rates with a small common divisor, whose dense filters would fill gigabytes."""
    width = _half_width(source, target)
    padded = functional.pad(signal, (width, width + 1))
    taps = torch.arange(2 * width + 2, device=signal.device)
    parts = []
    for start in range(0, length, step):
        outputs = torch.arange(start, min(start + step, length), device=signal.device) * source
        first = outputs // target  # the input at or before the output, which lies at first - width when padded
        fraction = (outputs - first * target).double() / target
        filters = _sinc(taps - width - fraction[:, None], source, target).float()  # (outputs, taps)
        window = (first[:, None] + taps).clamp(max=padded.shape[-1] - 1)
        parts.append((padded[..., window] * filters).sum(-1))
    return torch.cat(parts, dim=-1)


def normalize_energy(signal: Tensor) -> Tensor:
    """(n,) -> (n,): peak to 0.999; what is quieter than a peak of 0.01 is raised as if it had that."""
    return signal / signal.abs().amax().clamp(min=0.01) * 0.999


def trim_silence(signals: list[Tensor]) -> list[Tensor]:
    """Cut leading and trailing silence at 16 kHz, keeping 0.05 s before and about 0.22 s after.

    The span is that of ``librosa.effects.trim`` (20 dB, frames of 512, hop 128); the result's length is a
    multiple of 240 plus 4320, zero-padded where the clip has less.
    """
    frames = _loud_frames(pad_sequence(signals, batch_first=True), [len(signal) for signal in signals])
    spans = frames.tolist()  # the batch's only wait for the device
    return [_cut(signal, first, last) for signal, (first, last) in zip(signals, spans, strict=True)]


def _loud_frames(batch: Tensor, lengths: list[int]) -> Tensor:
    """First and last frame of each row that is not silent, int64 (batch, 2)."""
    half = TRIM_FRAME // 2
    power = functional.avg_pool1d(functional.pad(batch.square(), (half, half))[:, None], TRIM_FRAME, TRIM_HOP)[:, 0]
    number = torch.arange(power.shape[1], device=batch.device)
    ends = torch.tensor([length // TRIM_HOP for length in lengths]).to(batch.device)[:, None]
    power = power.clamp(min=POWER_FLOOR).masked_fill(number > ends, 0)
    loud = power > TRIM_RATIO * power.amax(1, keepdim=True)
    first, last = (loud * (len(number) - number)).argmax(1), (loud * (number + 1)).argmax(1)
    return torch.stack([first, last], dim=1)


def _cut(signal: Tensor, first: int, last: int) -> Tensor:
    start, end = first * TRIM_HOP, min((last + 1) * TRIM_HOP, len(signal))
    length = -(-(end - start) // TRIM_STEP) * TRIM_STEP + KEEP_BOTH
    begin = start - KEEP_LEFT
    kept = signal[max(begin, 0) : max(begin + length, 0)]
    left = max(-begin, 0)
    return functional.pad(kept, (left, length - left - len(kept)))
