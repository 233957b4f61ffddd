"""Make the preset voices: short clips spoken by free synthesizers, and the list that names them.

    apt-get install flite espeak-ng festival festvox-us-slt-hts
    python scripts/make_voices.py

A preset voice is only a reference clip to clone from; serve_app/voices/README.md says where each comes from.
"""

import argparse
import json
import struct
import subprocess
import wave
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

SAMPLE_RATE = 24_000
PEAK = 0.8
MARGIN_S = 0.1
SILENCE = 0.02
VOICES = Path(__file__).resolve().parents[1] / "serve_app" / "voices"
FLITE = ("flite", "-t", "{text}", "-o", "/dev/stdout", "-voice")
FESTIVAL = ("text2wave", "-otype", "riff", "-eval")
MANDARIN = ("espeak-ng", "--stdout", "-s", "175", "{text}", "-v")


@dataclass(frozen=True)
class Voice:
    """A clip to make. ``{text}`` in the command stands for ``spoken``; without it, it is read from standard input."""

    name: str
    command: Sequence[str]
    transcript: str
    description: str
    language: str = "en"
    spoken: str = ""


PRESETS = (
    Voice(
        "story_teller",
        (*FESTIVAL, "(voice_cmu_us_slt_arctic_hts)"),
        "Once upon a time, in a small house by the sea, there lived an old clockmaker and his curious daughter.",
        "A calm female voice, American English",
    ),
    Voice(
        "news_reader",
        (*FLITE, "rms"),
        "Good evening. Here are the headlines: the rain has stopped, the rivers are falling, and the trains run again.",
        "A measured male voice, American English",
    ),
    Voice(
        "radio_host",
        (*FLITE, "awb"),
        "Welcome back, everyone. Coming up next, three songs you have not heard in years, and one you never forgot.",
        "A lively male voice, Scottish English",
    ),
    Voice(
        "assistant",
        (*FLITE, "slt"),
        "Your table is booked for seven o'clock this evening. Would you like me to send the directions to your phone?",
        "A bright female voice, American English",
    ),
    Voice(
        "robot",
        (*FLITE, "kal16"),
        "All systems are working within their limits. The next inspection is due in forty two days.",
        "A mechanical male voice, American English",
    ),
    Voice(
        "xiao_mei",
        (*MANDARIN, "cmn-latn-pinyin+f2"),
        "从前，在海边的一座小房子里，住着一位老钟表匠和他的女儿。",
        "A female voice, Mandarin",
        "zh",
        "cong2 qian2, zai4 hai3 bian1 de5 yi2 zuo4 xiao3 fang2 zi5 li3, "
        "zhu4 zhe5 yi2 wei4 lao3 zhong1 biao3 jiang4 he2 ta1 de5 nv3 er2.",
    ),
    Voice(
        "xiao_ming",
        (*MANDARIN, "cmn-latn-pinyin"),
        "今天天气很好，我们一起去公园散步，然后回家吃饭吧。",
        "A male voice, Mandarin",
        "zh",
        "jin1 tian1 tian1 qi4 hen2 hao3, wo3 men5 yi4 qi3 qu4 gong1 yuan2 san4 bu4, ran2 hou4 hui2 jia1 chi1 fan4 ba5.",
    ),
)


def speak(voice: Voice) -> np.ndarray:
    """Run the synthesizer: float32 samples (n,) at 24 kHz, trimmed, with the loudest at PEAK."""
    text = voice.spoken or voice.transcript
    command = [part.replace("{text}", text) for part in voice.command]
    result = subprocess.run(command, input=text.encode(), stdout=subprocess.PIPE, check=True)
    samples = _resample(*_read(result.stdout))
    return _trim(samples / np.abs(samples).max() * PEAK)


def _read(data: bytes) -> tuple[np.ndarray, int]:
    """16-bit mono samples and their rate, from a WAV that came through a pipe: its header cannot know the length."""
    channels, rate, _, _, bits = struct.unpack_from("<HIIHH", data, data.index(b"fmt ") + 10)
    assert (channels, bits) == (1, 16)
    return np.frombuffer(data[data.index(b"data") + 8 :], dtype="<i2"), rate


def _resample(samples: np.ndarray, rate: int) -> np.ndarray:
    frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
    frame.sample_rate = rate
    resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
    frames = [*resampler.resample(frame), *resampler.resample(None)]
    return np.concatenate([part.to_ndarray()[0] for part in frames])


def _trim(samples: np.ndarray) -> np.ndarray:
    """Leave MARGIN_S of silence at both ends."""
    loud = np.flatnonzero(np.abs(samples) > SILENCE)
    margin = int(MARGIN_S * SAMPLE_RATE)
    sound = samples[max(0, loud[0] - margin) : loud[-1] + margin]
    return np.pad(sound, (max(0, margin - loud[0]), max(0, loud[-1] + margin - len(samples))))


def _write(path: Path, samples: np.ndarray) -> None:
    with wave.open(str(path), "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(SAMPLE_RATE)
        writer.writeframes(np.round(samples * 32767).astype("<i2").tobytes())


def main() -> None:
    """Write a WAV for every preset and voices.json."""
    parser = argparse.ArgumentParser(description="Make the preset voices with free synthesizers.")
    parser.add_argument("--out", type=Path, default=VOICES)
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    listed = {}
    for voice in PRESETS:
        _write(out / f"{voice.name}.wav", speak(voice))
        listed[voice.name] = {
            "file": f"{voice.name}.wav",
            "transcript": voice.transcript,
            "language": voice.language,
            "description": voice.description,
        }
    (out / "voices.json").write_text(json.dumps(listed, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
