import numpy as np
import pytest

from deployments.errors import InvalidInputError
from serve_app.audio_format import MEDIA_TYPES, ClipLimits, change_speed, decode, encode
from tests.audio import tone, wav

LIMITS = ClipLimits(0.5, 30)
# Samples in one frame of each codec at 24 kHz.
FRAME = {"mp3": 576, "opus": 480, "aac": 1024, "flac": 4096, "wav": 1, "pcm": 1}


def loudest_hertz(samples: np.ndarray, rate: int = 24_000) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum) * rate / len(samples))


@pytest.mark.parametrize("name", [name for name in MEDIA_TYPES if name != "pcm"])
def test_every_format_decodes_again_with_rate_channels_length_and_pitch(name: str) -> None:
    samples = tone()
    clip = decode(encode(samples, name), LIMITS)
    assert clip.samples.shape[0] == 1
    assert clip.sample_rate == (48_000 if name == "opus" else 24_000)
    length = clip.samples.shape[1] * 24_000 // clip.sample_rate
    frames = -(-len(samples) // FRAME[name])
    assert abs(-(-length // FRAME[name]) - frames) <= 1
    assert loudest_hertz(clip.samples[0], clip.sample_rate) == pytest.approx(440, abs=2)


def test_pcm_is_plain_little_endian_int16() -> None:
    samples = tone()
    assert np.abs(np.frombuffer(encode(samples, "pcm"), "<i2") / 32767 - samples).max() < 1e-4


def test_wav_keeps_every_sample_and_clips_what_is_beyond() -> None:
    samples = tone() * 3
    clip = decode(encode(samples, "wav"), LIMITS)
    assert np.abs(clip.samples[0] - np.clip(samples, -1, 1)).max() < 1e-4


@pytest.mark.parametrize("rate", [8_000, 44_100, 192_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_rate_and_channels_arrive_as_they_are(rate: int, channels: int) -> None:
    clip = decode(wav(tone(0.6, rate=rate), rate, channels), LIMITS)
    assert (clip.sample_rate, clip.samples.shape) == (rate, (channels, round(0.6 * rate)))


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "audio_undecodable"),
        (b"just some text, nothing else\n" * 100, "audio_undecodable"),
        (wav(tone())[:30], "audio_truncated"),
        (wav(tone())[:20_000], "audio_truncated"),
        (encode(tone(5), "mp3")[:20_000], "audio_truncated"),
        (wav(np.zeros(24_000, np.float32)), "audio_silent"),
        (wav(tone(0.1)), "audio_too_short"),
        (wav(tone(600, rate=8_000), 8_000), "audio_too_long"),
        (wav(tone(31)), "audio_too_long"),
        (wav(tone(0.6), channels=96), "audio_channels"),
        (wav(tone(), rate=1), "audio_sample_rate"),
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "audio_undecodable"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "audio_undecodable"),
    ],
)
def test_bad_audio_is_refused_with_its_code(data: bytes, code: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        decode(data, LIMITS)
    assert caught.value.code == code


def test_mp3_behind_a_large_picture_decodes() -> None:
    size = 4_000_000
    tag = b"ID3\x03\x00\x00" + bytes((size >> shift) & 0x7F for shift in (21, 14, 7, 0))
    frame = b"APIC" + (size - 10).to_bytes(4, "big") + b"\x00\x00" + b"\x00image/png\x00\x03\x00"
    picture = frame + b"\x89PNG" + bytes(size - len(frame) - 4)
    clip = decode(tag + picture + encode(tone(), "mp3"), LIMITS)
    assert clip.samples.shape == (1, len(tone()))


def test_wav_from_a_pipe_whose_writer_knew_no_length_decodes() -> None:
    data = wav(tone())
    for size in (0x7FFFF000, 0xFFFFFFFF):
        piped = data[:4] + (size + 36).to_bytes(8, "little")[:4] + data[8:40] + size.to_bytes(4, "little") + data[44:]
        assert decode(piped, LIMITS).samples.shape == (1, len(tone()))


@pytest.mark.parametrize("factor", [0.25, 0.4, 0.5, 0.9, 1.7, 4.0])
def test_speed_changes_length_and_keeps_pitch(factor: float) -> None:
    samples = tone(2.0)
    changed = change_speed(samples, factor)
    assert len(changed) == pytest.approx(len(samples) / factor, rel=0.03)
    assert loudest_hertz(changed) == pytest.approx(440, abs=6)
