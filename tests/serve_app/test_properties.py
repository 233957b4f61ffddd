"""Whatever a body holds, the answer is never a server error."""

import json
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serve_app.ingress import create_app
from serve_app.schemas import SpeechRequest, StepAudio
from serve_app.voices import Voices
from tests.bad_input import CLIP, SPEECH
from tests.serve_app.conftest import service_over
from tests.serve_app.fakes import fake_stages

text = st.text(max_size=40)
scalar = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | text
anything = st.recursive(scalar, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3))
PLAUSIBLE: dict[str, st.SearchStrategy[Any]] = {
    "input": text | st.sampled_from(["hello", "你好 [Laughter]", "{edit_info}", "%s {0}", "a\ud800b"]),
    "voice": st.sampled_from(["story_teller", "robot", "nobody"]),
    "model": st.sampled_from(["step-audio-editx", "step-audio-editx-awq", "tts-1"]),
    "mode": st.sampled_from(["clone", "emotion", "style", "speed", "paralinguistic", "denoise", "vad"]),
    "edit_info": st.sampled_from(["happy", "remove", "whisper", "faster"]),
    "audio_text": text,
    "prompt_text": text,
    "input_audio_base64": st.sampled_from([CLIP, CLIP[:1000], "data:audio/wav;base64," + CLIP, "AAAA"]),
    "prompt_audio_base64": st.sampled_from([CLIP, "", "="]),
    "seed": st.integers(0, 2**64),
    "metadata": st.dictionaries(text, text, max_size=2),
    "response_format": st.sampled_from(["mp3", "opus", "aac", "flac", "wav", "pcm"]),
    "speed": st.floats(0.2, 5),
}


def fields(names: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    """Some of a model's fields, plausible more often than not, and sometimes one it does not have."""
    known = {name: PLAUSIBLE.get(name, anything) | anything for name in names}
    return st.fixed_dictionaries({}, optional=known | {"unknown": anything})


options = fields(list(StepAudio.model_fields))
top = [name for name in SpeechRequest.model_fields if name != "step_audio"]
bodies = st.tuples(fields(top), st.none() | options).map(
    lambda parts: parts[0] | ({} if parts[1] is None else {"step_audio": parts[1]})
)


@pytest.fixture(scope="module")
def client(voices: Voices) -> TestClient:
    return TestClient(create_app(service_over(fake_stages(), voices)), raise_server_exceptions=False)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(body=bodies | anything)
def test_no_body_makes_a_server_error(client: TestClient, body: Any) -> None:
    content = json.dumps(body).encode()
    response = client.post(SPEECH, content=content, headers={"Content-Type": "application/json"})
    assert response.status_code in (200, 400, 404), (response.status_code, response.text)
    if response.status_code != 200:
        assert response.json()["error"]["message"]


@settings(max_examples=50, deadline=None)
@given(content=st.binary(max_size=200))
def test_no_bytes_make_a_server_error(client: TestClient, content: bytes) -> None:
    response = client.post(SPEECH, content=content, headers={"Content-Type": "application/json"})
    assert response.status_code == 400
