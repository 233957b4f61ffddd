import numpy as np
import pytest

from serve_app.audio_format import MEDIA_TYPES, ClipLimits, decode, encode
from serve_app.audio_stream import Encoder
from tests.audio import tone

FORMATS = sorted(MEDIA_TYPES)


def stream(name: str, pieces: list[np.ndarray]) -> list[bytes]:
    encoder = Encoder(name)
    return [*(encoder.write(piece) for piece in pieces), encoder.close()]


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "pcm"])
def test_pieces_of_any_length_become_one_file(name: str) -> None:
    samples = tone(2.5)
    clip = decode(b"".join(stream(name, np.split(samples, [7, 7, 2_000, 30_000]))), ClipLimits(0.5, 30))
    expected = len(samples) / 24_000
    delay = {"mp3": 0.1, "aac": 0.086}.get(name, 0.001)
    assert expected - 0.001 <= clip.duration <= expected + delay
    spectrum = np.abs(np.fft.rfft(clip.samples[0] * np.hanning(clip.samples.shape[1])))
    assert np.argmax(spectrum) / clip.duration == pytest.approx(440, abs=2)


@pytest.mark.parametrize("name", ["pcm", "opus", "aac"])
def test_pieces_give_the_bytes_of_the_whole(name: str) -> None:
    samples = tone(2.5)
    whole, pieces = encode(samples, name), b"".join(stream(name, np.split(samples, [7, 2_000, 30_000])))
    assert len(pieces) == len(whole)
    assert pieces == whole or name == "opus"  # Ogg numbers its streams at random


@pytest.mark.parametrize("name", FORMATS)
def test_bytes_come_while_samples_are_written(name: str) -> None:
    pieces = stream(name, [tone(0.5)] * 8)
    assert sum(map(len, pieces[:-1])) > 5_000
