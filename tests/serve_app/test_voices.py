"""The voice library over HTTP, with faked stages."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient

from deployments.errors import StageError
from deployments.types import Clip, ClonePrompt, Reference
from serve_app.audio_format import ClipLimits
from serve_app.config import AppArgs
from serve_app.ingress import create_app
from serve_app.pipeline import Stages
from serve_app.voices import PRESETS, Voices, library
from tests.audio import tone, wav
from tests.bad_input import SPEECH
from tests.serve_app.conftest import service_over
from tests.serve_app.fakes import FakeEncoder, FakeLLM, fake_stages

URL = "/v1/audio/voices"
CLIP = wav(tone(1.5))
Start = Callable[..., tuple[TestClient, Stages]]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Starts an application over the test's library, with stages of its own."""

    def build(
        weights: str = "w1", voices_dir: Path | None = tmp_path / "data", **args: Any
    ) -> tuple[TestClient, Stages]:
        stages = fake_stages()
        settings = AppArgs.model_validate({"models": Path("unused"), "api_keys": [], "voices_dir": voices_dir} | args)
        voices = Voices([PRESETS], ClipLimits(0.5, 30), library(settings, weights))
        service = service_over(stages, voices, **args)
        return TestClient(create_app(service), raise_server_exceptions=False), stages

    return build


def store(client: httpx.Client, name: str = "anna", audio: bytes = CLIP, **fields: str) -> httpx.Response:
    data = {"name": name, "transcript": "my words"} | fields
    return client.post(URL, data=data, files={"audio_sample": ("a.wav", audio)})


def speak(client: httpx.Client, voice: Any = "anna", **fields: Any) -> httpx.Response:
    return client.post(SPEECH, json={"input": "hi", "voice": voice} | fields)


def clips(stages: Stages) -> list[Clip]:
    assert isinstance(stages.encoder, FakeEncoder)
    return stages.encoder.clips


def prompts(stages: Stages) -> list[ClonePrompt]:
    llm = stages.llm["base"]
    assert isinstance(llm, FakeLLM)
    return llm.prompts  # type: ignore[return-value]


def error_of(response: httpx.Response) -> tuple[int, str | None, str]:
    error = response.json()["error"]
    return response.status_code, error["param"], error["code"]


def test_a_stored_voice_is_listed_and_looked_up(start: Start) -> None:
    client, _ = start()
    answer = store(client, " anna ", consent="form 7", description="who she is")
    assert answer.status_code == 200
    voice = answer.json()
    assert isinstance(voice.pop("created_at"), int)
    assert voice == {
        "id": "anna",
        "object": "audio.voice",
        "name": "anna",
        "preset": False,
        "language": "",
        "description": "who she is",
        "consent": "form 7",
        "transcript": "my words",
        "duration": 1.5,
    }
    for url in (URL, "/v1/voices"):
        listed = client.get(url).json()["data"]
        assert [each["id"] for each in listed] == sorted(each["id"] for each in listed)
        assert answer.json() in listed and len(listed) > 1
        assert client.get(f"{url}/anna").json() == answer.json()
        assert client.get(f"{url}/robot").json()["preset"] is True
    assert error_of(client.get(f"{URL}/nobody")) == (404, "voice", "voice_not_found")


@pytest.mark.parametrize("fields", [{}, {"stream_format": "sse"}, {"voice": {"id": "anna"}}])
def test_a_stored_voice_speaks_without_the_encoder(start: Start, fields: dict[str, Any]) -> None:
    client, stages = start()
    store(client)
    assert len(clips(stages)) == 1
    response = speak(client, **fields)
    assert response.status_code == 200 and len(clips(stages)) == 1
    (prompt,) = prompts(stages)
    assert prompt.transcript == "my words" and prompt.codes.tolist() == [1, 1, 1025, 1025, 1025] * 2
    assert "stream_format" in fields or response.headers["x-encoder-cache"] == "hit"


def test_the_encoder_hears_what_is_stored(start: Start) -> None:
    client, stages = start()
    left, right = tone(1.5, 440), tone(1.5, 660)
    store(client, audio=wav(np.stack([left, right], 1).reshape(-1) / 2, rate=48_000))
    store(client, audio=wav(tone(1.5), channels=2))
    assert clips(stages)[1].samples.shape == (1, 36_000)
    assert np.abs(clips(stages)[1].samples[0] - tone(1.5)).max() < 1e-4


def test_voices_survive_a_restart_and_are_not_encoded_again(start: Start) -> None:
    store(start()[0])
    client, stages = start()
    assert speak(client).status_code == 200
    assert clips(stages) == [] and prompts(stages)[0].transcript == "my words"


def test_two_services_share_a_folder_and_an_overwrite_takes_effect_at_once(start: Start) -> None:
    (first, _), (second, stages) = start(), start()
    store(first)
    assert speak(second).status_code == 200
    store(first, transcript="other words", audio=wav(tone(2.0)))
    assert speak(second).status_code == 200
    assert [prompt.transcript for prompt in prompts(stages)] == ["my words", "other words"]
    assert second.get(f"{URL}/anna").json()["duration"] == 2.0
    assert prompts(stages)[0].speaker != prompts(stages)[1].speaker
    assert first.delete(f"{URL}/anna").json() == {"id": "anna", "object": "audio.voice.deleted", "deleted": True}
    assert error_of(speak(second)) == (404, "voice", "voice_not_found")
    assert error_of(second.delete(f"{URL}/anna")) == (404, "voice", "voice_not_found")


def test_a_voice_of_other_weights_is_encoded_anew_once(start: Start) -> None:
    store(start("w1")[0])
    client, stages = start("w2")
    for _ in range(2):
        assert speak(client).status_code == 200
    assert speak(client, stream_format="sse").status_code == 200
    assert len(clips(stages)) == 1
    assert np.abs(clips(stages)[0].samples[0] - tone(1.5)).max() < 1e-4


def test_a_damaged_voice_is_left_out_and_can_be_stored_again(start: Start, tmp_path: Path) -> None:
    client, _ = start()
    store(client)
    store(client, "berta")
    (path,) = (tmp_path / "data").glob("anna*")
    path.write_bytes(path.read_bytes()[:1000])
    listed = {voice["id"] for voice in client.get(URL).json()["data"]}
    assert "berta" in listed and "anna" not in listed
    assert error_of(speak(client)) == (404, "voice", "voice_damaged")
    assert speak(client, "berta").status_code == 200
    assert store(client).status_code == 200 and speak(client).status_code == 200


def test_presets_stay_as_they_are(start: Start) -> None:
    client, stages = start()
    assert error_of(store(client, "robot")) == (400, "name", "voice_is_preset")
    assert error_of(client.delete(f"{URL}/robot")) == (400, "voice", "voice_is_preset")
    assert clips(stages) == []


def test_the_cap_is_told_and_nothing_is_lost(start: Start) -> None:
    client, _ = start(limits={"max_voices": 1})
    assert store(client).status_code == 200
    assert error_of(store(client, "berta")) == (400, "name", "voices_full")
    assert store(client, transcript="again").status_code == 200
    assert client.get(f"{URL}/anna").json()["transcript"] == "again"


def test_without_a_folder_nothing_is_stored_and_presets_work(start: Start) -> None:
    client, stages = start(voices_dir=None)
    assert error_of(store(client)) == (400, "name", "voices_not_stored")
    assert error_of(client.delete(f"{URL}/anna")) == (400, "voice", "voices_not_stored")
    assert clips(stages) == [] and speak(client, "robot").status_code == 200


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"name": "../../etc/passwd"}, "name", "invalid_name"),
        ({"name": ""}, "name", "missing_field"),
        ({"transcript": " "}, "transcript", "missing_field"),
        ({"transcript": "...!?"}, "transcript", "missing_field"),
        ({"transcript": "a" * 4097}, "transcript", "text_too_long"),
        ({"transcript": "a\0b"}, "transcript", "invalid_text"),
        ({"ref_text": "other words"}, "ref_text", "conflict"),
        ({"consent": "a" * 1001}, "consent", "invalid_value"),
        ({"speaker": "x"}, "speaker", "unknown_field"),
        ({"audio": wav(tone(0.9))}, "audio_sample", "audio_too_short"),
        ({"audio": wav(tone(31, rate=8_000), 8_000)}, "audio_sample", "audio_too_long"),
        ({"audio": b"no sound" * 99}, "audio_sample", "audio_undecodable"),
    ],
)
def test_bad_uploads_are_refused_before_any_stage(
    start: Start, tmp_path: Path, fields: dict[str, Any], param: str, code: str
) -> None:
    client, stages = start()
    assert error_of(store(client, **fields)) == (400, param, code)
    assert clips(stages) == [] and not (tmp_path / "data").exists()


def test_what_is_missing_is_named(start: Start) -> None:
    client, _ = start()
    assert error_of(client.post(URL, data={"name": "a"})) == (400, "audio_sample", "missing_field")
    assert error_of(client.post(URL, files={"audio_sample": ("a.wav", CLIP)})) == (400, "name", "missing_field")
    assert client.post(URL, json={"name": "a"}).status_code == 400


def test_ref_text_is_another_name_of_transcript(start: Start) -> None:
    client, _ = start()
    answer = client.post(URL, data={"name": "a", "ref_text": "words"}, files={"audio_sample": ("a.wav", CLIP)})
    assert answer.json()["transcript"] == "words"


def test_a_stage_that_fails_stores_nothing(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(_encoder: FakeEncoder, _clip: Clip) -> Reference:
        raise StageError("the encoder died")

    monkeypatch.setattr(FakeEncoder, "encode", fail)
    client, _ = start()
    assert store(client).status_code == 500
    assert client.get(f"{URL}/anna").status_code == 404


def test_uploads_count_against_the_rate_and_listings_do_not(start: Start) -> None:
    client, _ = start(limits={"requests_per_minute": 1})
    assert [store(client).status_code for _ in range(2)] == [200, 429]
    assert client.get(URL).status_code == 200


@pytest.mark.parametrize("name", ["..%2f..%2fetc%2fpasswd", "%2e%2e", "a%00b", "%ff", "%ED%A0%80"])
def test_hostile_ids_are_not_found(start: Start, name: str) -> None:
    client, _ = start()
    for method in ("GET", "DELETE"):
        response = client.request(method, f"{URL}/{name}")
        assert response.status_code in (404, 405) and re.match(r"\{\"error\":", response.text)


def test_a_preset_is_encoded_once(start: Start) -> None:
    client, stages = start()
    answers = [speak(client, "robot", **fields) for fields in ({}, {}, {"stream_format": "audio"})]
    assert [answer.status_code for answer in answers] == [200] * 3
    assert [answer.headers.get("x-encoder-cache") for answer in answers] == ["miss", "hit", None]
    assert len(clips(stages)) == 1
    assert len({prompt.codes.tobytes() for prompt in prompts(stages)}) == 1
    assert speak(client, "assistant").headers["x-encoder-cache"] == "miss"
    assert len(clips(stages)) == 2
