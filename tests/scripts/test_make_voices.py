import json
import wave

import numpy as np
import pytest

from scripts.make_voices import PRESETS, SAMPLE_RATE, VOICES

LISTED = json.loads((VOICES / "voices.json").read_text(encoding="utf-8"))


def test_list_names_every_preset_and_story_teller():
    assert set(LISTED) == {voice.name for voice in PRESETS}
    assert "story_teller" in LISTED
    assert len(LISTED) >= 6


@pytest.mark.parametrize("name", LISTED)
def test_clip_is_short_mono_speech_at_24_khz(name):
    with wave.open(str(VOICES / LISTED[name]["file"])) as reader:
        assert (reader.getnchannels(), reader.getsampwidth(), reader.getframerate()) == (1, 2, SAMPLE_RATE)
        samples = np.frombuffer(reader.readframes(reader.getnframes()), dtype="<i2") / 32768
    assert 3 <= len(samples) / SAMPLE_RATE <= 8
    assert 0.6 <= np.abs(samples).max() <= 0.9
    assert LISTED[name]["transcript"] and LISTED[name]["language"] and LISTED[name]["description"]


def test_clips_are_small():
    assert sum(path.stat().st_size for path in VOICES.iterdir()) < 3_000_000
