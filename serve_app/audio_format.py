"""Audio in and out of the application: decoding what callers send, speed, and encoding answers. PyAV throughout.

Decoding trusts nothing: only known containers, no reference from one file to another, and never more samples than
the longest clip allowed, whatever a header claims.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer

from deployments.errors import InvalidInputError
from deployments.types import SAMPLE_RATE, Clip

MEDIA_TYPES = {
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}
# format -> container, codec, bits per second
_ENCODERS = {
    "mp3": ("mp3", "libmp3lame", 96_000),
    "opus": ("ogg", "libopus", 48_000),
    "aac": ("adts", "aac", 96_000),
    "flac": ("flac", "flac", None),
    "wav": ("wav", "pcm_s16le", None),
    "pcm": ("s16le", "pcm_s16le", None),
}
_DEMUXERS = "wav,w64,mp3,flac,ogg,mov,mp4,m4a,3gp,matroska,webm,aac,aiff,au,caf,amr,asf"
_RATES = (4_000, 192_000)
_MAX_CHANNELS = 8
_SILENCE = 1e-3
_PROBED = "1000000"  # bytes that may be read to find out about streams
_CHUNK = 4096
_PIPED = 0x7FFFF000  # sizes from here on come from writers that do not know the length yet
_MOST_CHUNKS = 64


@dataclass(frozen=True)
class ClipLimits:
    """Shortest and longest clip, seconds."""

    min_s: float
    max_s: float


def decode(data: bytes, limits: ClipLimits) -> Clip:
    """Audio in any common container as float32 (channels, n) at its own rate.

    Raises: InvalidInputError for what is no audio or is truncated, silent, too short or too long, or has a rate
    outside 4-192 kHz or more than 8 channels.
    """
    _refuse_cut_riff(data)
    try:
        with _open(data) as container:
            clip = _decode(container, limits)
    except av.FFmpegError as error:
        raise _invalid("the audio cannot be decoded", "audio_undecodable") from error
    return _checked(clip, limits)


def _open(data: bytes) -> InputContainer:
    # Without these two lists a playlist could make the library open other files and addresses.
    options = {"format_whitelist": _DEMUXERS, "protocol_whitelist": "pipe", "probesize": _PROBED}
    return av.open(io.BytesIO(data), mode="r", options=options, metadata_errors="ignore")


def _refuse_cut_riff(data: bytes) -> None:
    """A WAV whose header promises more than came; the library would trust the file's size instead."""
    if data[:4] != b"RIFF":
        return
    start, promised = _wav_samples(data)
    if promised < _PIPED and len(data) - start < 0.9 * promised:
        raise _invalid(f"{len(data) - start} of {promised} bytes of the audio came: it is truncated", "audio_truncated")


def _wav_samples(data: bytes) -> tuple[int, int]:
    """Where the samples of a WAV start, and how many bytes its header promises: all of a chunk that is cut off."""
    start = 12
    for _ in range(_MOST_CHUNKS):
        name, size = data[start : start + 4], int.from_bytes(data[start + 4 : start + 8], "little")
        if name == b"data" or start + 8 + size > len(data):
            return start + 8, size
        start += 8 + size + size % 2
    return start, 0


def _decode(container: InputContainer, limits: ClipLimits) -> Clip:
    if not container.streams.audio:
        raise _invalid("the file holds no audio", "audio_undecodable")
    stream = container.streams.audio[0]
    rate, channels = stream.codec_context.sample_rate, stream.codec_context.channels
    if not _RATES[0] <= rate <= _RATES[1]:
        raise _invalid(f"a sample rate of {rate} Hz is outside {_RATES[0]}-{_RATES[1]} Hz", "audio_sample_rate")
    if not 1 <= channels <= _MAX_CHANNELS:
        raise _invalid(f"{channels} channels are more than {_MAX_CHANNELS}", "audio_channels")
    claimed = _claimed_seconds(container)
    if claimed > limits.max_s + 1:
        raise _too_long(limits)
    samples = _samples(container, int(limits.max_s * rate) + 1)
    seconds = samples.shape[1] / rate
    if seconds > limits.max_s:
        raise _too_long(limits)
    if seconds < 0.9 * claimed:
        raise _invalid(f"the audio ends after {seconds:.2f} of {claimed:.2f} s: it is truncated", "audio_truncated")
    return Clip(samples, rate)


def _claimed_seconds(container: InputContainer) -> float:
    """What the header says of the length; 0 if nothing."""
    stream = container.streams.audio[0]
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return (container.duration or 0) / av.time_base


def _samples(container: InputContainer, most: int) -> np.ndarray:
    """Up to ``most`` samples (channels, n); what follows is not decoded."""
    resampler = av.AudioResampler(format="fltp")
    pieces: list[np.ndarray] = []
    total = 0
    for frame in container.decode(audio=0):
        for plain in resampler.resample(frame):
            pieces.append(plain.to_ndarray())
            total += pieces[-1].shape[1]
        if total >= most:
            break
    if not pieces:
        raise _invalid("the file holds no audio", "audio_undecodable")
    if len({piece.shape[0] for piece in pieces}) > 1:
        raise _invalid("the number of channels changes midway", "audio_channels")
    return np.concatenate(pieces, axis=1).astype(np.float32, copy=False)


def _checked(clip: Clip, limits: ClipLimits) -> Clip:
    if clip.duration < limits.min_s:
        raise _invalid(f"{clip.duration:.2f} s of audio are less than {limits.min_s:g} s", "audio_too_short")
    if not np.isfinite(clip.samples).all():
        raise _invalid("the audio holds samples that are not numbers", "audio_undecodable")
    if np.abs(clip.samples.mean(axis=0)).max() < _SILENCE:
        raise _invalid("the audio is silent", "audio_silent")
    return clip


def _too_long(limits: ClipLimits) -> InvalidInputError:
    return _invalid(f"the audio is longer than {limits.max_s:g} s", "audio_too_long")


def _invalid(message: str, code: str) -> InvalidInputError:
    return InvalidInputError(message, None, code)


def change_speed(samples: np.ndarray, factor: float) -> np.ndarray:
    """``samples`` (n,) at 24 kHz, ``factor`` times as fast (0.25-4), pitch kept -> (about n / factor,)."""
    tempo = Tempo(factor)
    return np.concatenate([tempo.write(samples), tempo.close()])


class Tempo:
    """Changes the speed of samples as they come, pitch kept; ``factor`` 0.25-4."""

    def __init__(self, factor: float) -> None:
        self._graph = av.filter.Graph()
        last = self._graph.add_abuffer(
            sample_rate=SAMPLE_RATE, format="fltp", layout="mono", time_base=Fraction(1, SAMPLE_RATE)
        )
        # One atempo covers 0.5 and more; its square root twice covers the rest.
        tempos = [factor**0.5] * 2 if factor < 0.5 else [factor]
        for step in [self._graph.add("atempo", f"{tempo:.6f}") for tempo in tempos] + [self._graph.add("abuffersink")]:
            last.link_to(step)
            last = step
        self._graph.configure()
        self._written = 0

    def write(self, samples: np.ndarray) -> np.ndarray:
        """float32 (n,) -> what is ready, (m,)."""
        for frame in _frames(samples.astype(np.float32), "fltp", self._written):
            self._graph.push(frame)
        self._written += len(samples)
        return self._pull()

    def close(self) -> np.ndarray:
        """The rest, (m,)."""
        self._graph.push(None)
        return self._pull()

    def _pull(self) -> np.ndarray:
        pieces = [np.empty(0, np.float32)]
        while True:
            try:
                frame = self._graph.pull()
            except (av.BlockingIOError, av.EOFError):
                return np.concatenate(pieces)
            assert isinstance(frame, av.AudioFrame)
            pieces.append(frame.to_ndarray()[0])


def encode(samples: np.ndarray, name: str) -> bytes:
    """float32 samples (n,) at 24 kHz as one mono file in a format of MEDIA_TYPES.

    Delay and padding of a codec are stated in the file, and players cut them off; only AAC's container (ADTS) has no
    place for that, so one frame of silence leads and the last one is filled up.
    """
    buffer = io.BytesIO()
    muxer = Muxer(buffer, name)
    muxer.write(samples)
    muxer.close()
    return buffer.getvalue()


class Muxer:
    """Writes samples as they come, into anything with ``write``; with ``seek`` too, the header tells the length."""

    def __init__(self, file: Any, name: str) -> None:
        container, codec, bit_rate = _ENCODERS[name]
        self._container = av.open(file, mode="w", format=container)
        stream = self._container.add_stream(codec, rate=SAMPLE_RATE, layout="mono")
        assert isinstance(stream, AudioStream)
        self._stream = stream
        if bit_rate is not None:
            self._stream.bit_rate = bit_rate
        self._resampler = av.AudioResampler(format=self._stream.format, frame_size=self._stream.frame_size or None)
        self._written = 0

    def write(self, samples: np.ndarray) -> None:
        """float32 (n,) in [-1, 1] at 24 kHz."""
        for frame in _frames(to_int16(samples), "s16", self._written):
            self._encode(frame)
        self._written += len(samples)

    def close(self) -> None:
        """Write what is left."""
        self._encode(None)
        self._container.mux(self._stream.encode(None))
        self._container.close()

    def _encode(self, frame: av.AudioFrame | None) -> None:
        for plain in self._resampler.resample(frame):
            self._container.mux(self._stream.encode(plain))


def to_int16(samples: np.ndarray) -> np.ndarray:
    """float32 in [-1, 1] to int16; what is beyond is clipped."""
    return np.round(np.clip(samples, -1.0, 1.0) * 32767).astype(np.int16)


def _frames(samples: np.ndarray, sample_format: str, first: int = 0) -> Iterator[av.AudioFrame]:
    for start in range(0, len(samples), _CHUNK):
        frame = av.AudioFrame.from_ndarray(
            samples[np.newaxis, start : start + _CHUNK], format=sample_format, layout="mono"
        )
        frame.sample_rate = SAMPLE_RATE
        frame.time_base = Fraction(1, SAMPLE_RATE)
        frame.pts = first + start
        yield frame
