import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.types import Clip
from serve_app.split import split
from serve_app.text import distribute
from tests.audio import tone

RATE = 8_000


def test_cuts_lie_in_the_silences() -> None:
    speech, silence = tone(5.0, rate=RATE), np.zeros(RATE // 2, np.float32)
    samples = np.concatenate([part for _ in range(8) for part in (speech, silence)])
    pieces = split(Clip(samples[np.newaxis], RATE), 15)
    assert np.array_equal(np.concatenate([piece.samples for piece in pieces], axis=1)[0], samples)
    assert all(7.5 <= piece.duration <= 15 for piece in pieces[:-1])
    assert all(np.abs(piece.samples[0, -100:]).max() == 0 for piece in pieces[:-1])


def test_short_audio_stays_whole() -> None:
    clip = Clip(tone(14.0, rate=RATE)[np.newaxis], RATE)
    (piece,) = split(clip, 15)
    assert np.array_equal(piece.samples, clip.samples)


@given(seconds=st.floats(0.5, 100), longest=st.floats(2, 30), seed=st.integers(0, 9))
def test_no_sample_is_lost_and_no_piece_too_long(seconds: float, longest: float, seed: int) -> None:
    samples = np.random.default_rng(seed).normal(size=(2, round(seconds * 100))).astype(np.float32)
    pieces = split(Clip(samples, 100), longest)
    assert np.array_equal(np.concatenate([piece.samples for piece in pieces], axis=1), samples)
    assert all(piece.duration <= longest + 0.03 for piece in pieces)


def test_text_follows_the_lengths_of_the_pieces() -> None:
    sentences = [f"Sentence number {number}." for number in range(8)]
    first, second = distribute(" ".join(sentences), [3.0, 1.0])
    assert first == " ".join(sentences[:6]) and second == " ".join(sentences[6:])


@pytest.mark.parametrize("text", ["one two three four", "今天天气很好我们去公园散步吧", "", "word"])
def test_text_without_sentences_is_shared_out_too(text: str) -> None:
    parts = distribute(text, [1.0, 1.0])
    assert "".join("".join(parts).split()) == "".join(text.split())
    assert len(text) < 5 or all(parts)
