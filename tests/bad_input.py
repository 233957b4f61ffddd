"""Bad requests and the answer each must get: one table, run against the routes and against a whole server."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.audio import base64_of, tone, wav

SPEECH = "/v1/audio/speech"
CLIP = base64_of(wav(tone(1.0)))


@dataclass(frozen=True)
class Case:
    """A request and the status, code and param of its refusal. ``content`` is sent as it is instead of ``body``."""

    name: str
    status: int
    code: str | None
    param: str | None = None
    body: Any = None
    content: bytes | None = None
    method: str = "POST"
    path: str = SPEECH
    headers: dict[str, str] = field(default_factory=dict)


def say(**fields: Any) -> dict[str, Any]:
    return {"input": "hello there"} | fields


def edit(**options: Any) -> dict[str, Any]:
    return {
        "step_audio": {"mode": "emotion", "edit_info": "happy", "audio_text": "x", "input_audio_base64": CLIP} | options
    }


def audio(data: bytes) -> dict[str, Any]:
    return edit(input_audio_base64=base64_of(data))


_AUDIO = "step_audio.input_audio_base64"
CASES = [
    Case("empty text", 400, "text_empty", "input", say(input="")),
    Case("no text", 400, "text_empty", "input", {}),
    Case("white text", 400, "text_empty", "input", say(input=" \n\t　")),
    Case("only punctuation", 400, "text_empty", "input", say(input="...!?")),
    Case("only an emoji", 400, "text_empty", "input", say(input="😀")),
    Case("null byte in text", 400, "invalid_text", "input", say(input="a\0b")),
    Case("4 000 combining characters", 400, "invalid_text", "input", say(input="a" + "\u0301" * 4000)),
    Case("a mark of the prompt in text", 400, "invalid_text", "input", say(input="hello<|EOT|>there")),
    Case("audio in a transcript", 400, "invalid_text", "step_audio.audio_text", edit(audio_text="a<audio_7>b")),
    Case("too long text", 400, "text_too_long", "input", say(input="a" * 4097)),
    Case("text of another type", 400, "invalid_value", "input", say(input=7)),
    Case("unknown voice", 404, "voice_not_found", "voice", say(voice="nobody")),
    Case("unknown voice by id", 404, "voice_not_found", "voice", say(voice={"id": "../../etc/passwd"})),
    Case("unknown model", 404, "model_not_found", "model", say(model="tts-1")),
    Case("unknown mode", 400, "invalid_value", "step_audio.mode", edit(mode="sing")),
    Case("unknown variant", 400, "invalid_value", "step_audio.model_variant", edit(model_variant="fp8")),
    Case("unknown format", 400, "invalid_value", "response_format", say(response_format="ogg")),
    Case("unknown field", 400, "unknown_field", "inptu", say(inptu="x")),
    Case("unknown option", 400, "unknown_field", "step_audio.mdoe", edit(mdoe="x")),
    Case("unknown edit_info", 400, "unknown_edit_info", "step_audio.edit_info", edit(edit_info="furious")),
    Case("no edit_info", 400, "missing_field", "step_audio.edit_info", edit(edit_info=None)),
    Case("edit without audio", 400, "missing_field", _AUDIO, edit(input_audio_base64=None)),
    Case("edit without transcript", 400, "missing_field", "step_audio.audio_text", edit(audio_text=" ")),
    Case("no rounds", 400, "invalid_value", "step_audio.n_edit_iter", edit(n_edit_iter=0)),
    Case("too many rounds", 400, "invalid_value", "step_audio.n_edit_iter", edit(n_edit_iter=5)),
    Case("too much intensity", 400, "invalid_value", "step_audio.intensity", edit(intensity=3.1)),
    Case("too fast", 400, "invalid_value", "speed", say(speed=4.1)),
    Case("negative seed", 400, "invalid_value", "seed", say(seed=-1)),
    Case("top_k of zero", 400, "invalid_value", "top_k", say(top_k=0)),
    Case("hot temperature", 400, "invalid_value", "temperature", say(temperature=2.5)),
    Case("header injection", 400, "invalid_value", None, say(metadata={"a": "b\r\nX-Evil: 1"})),
    Case("reference without transcript", 400, "missing_field", "step_audio.prompt_text",
         say(step_audio={"prompt_audio_base64": CLIP})),
    Case("wrong base64", 400, "invalid_base64", _AUDIO, edit(input_audio_base64="%%%not base64%%%")),
    Case("audio that is text", 400, "audio_undecodable", _AUDIO, audio(b"some words and no sound " * 50)),
    Case("truncated audio", 400, "audio_truncated", _AUDIO, audio(wav(tone(2))[:40_000])),
    Case("silent audio", 400, "audio_silent", _AUDIO, audio(wav(np.zeros(24_000, np.float32)))),
    Case("0.1 s of audio", 400, "audio_too_short", _AUDIO, audio(wav(tone(0.1)))),
    Case("10 min of audio", 400, "audio_too_long", _AUDIO, audio(wav(tone(600, rate=8_000), 8_000))),
    Case("96 channels", 400, "audio_channels", _AUDIO, audio(wav(tone(0.6), channels=96))),
    Case("1 Hz", 400, "audio_sample_rate", _AUDIO, audio(wav(tone(1.0), rate=1))),
    Case("URL while URLs are off", 400, "url_not_allowed", "step_audio.input_audio_url",
         edit(input_audio_base64=None, input_audio_url="http://127.0.0.1:8265/")),
    Case("audio given twice", 400, "conflict", _AUDIO, edit(input_audio_url="http://example.com/a.wav")),
    Case("wrong JSON", 400, "invalid_json", None, content=b'{"input": "hello'),
    Case("not JSON at all", 400, "invalid_json", None, content=b"\xff\xfe\x00binary"),
    Case("a list", 400, "invalid_value", None, body=[1, 2]),
    Case("no body", 400, "missing_field", None, content=b""),
    Case("unknown path", 404, None, None, body={}, path="/v1/audio/song"),
    Case("wrong method", 405, None, None, method="GET"),
    Case("upload with a wrong payload", 400, "missing_field", "payload", path=SPEECH + "/upload", body={}),
]  # fmt: skip
GOOD_TEXTS = {
    "emoji": "hello 😀👍🏽 world",
    "right to left": "שלום עולם مرحبا",
    "marks": "re\u0301sume\u0301 a\u0323\u0302\u0301",
    "the longest text": "a" * 4096,
}
