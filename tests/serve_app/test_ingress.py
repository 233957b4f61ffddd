import logging
import time
from collections.abc import Callable
from dataclasses import replace

import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient

from deployments.errors import DeadlineError, InvalidInputError, OverloadedError, StageError
from deployments.types import ClonePrompt, EditPrompt, Generation, Prompt, Sampling
from serve_app.audio_format import ClipLimits, decode
from serve_app.ingress import create_app
from serve_app.pipeline import Stages
from serve_app.voices import Voices
from tests.audio import base64_of, tone, wav
from tests.bad_input import CASES, GOOD_TEXTS, SPEECH, Case
from tests.serve_app.conftest import service_over
from tests.serve_app.fakes import FakeLLM, fake_stages

CLIP = wav(tone(1.0))
EDIT = {"mode": "style", "edit_info": "whisper", "audio_text": "words", "input_audio_base64": base64_of(CLIP)}


def prompts(stages: Stages, variant: str = "base") -> list[ClonePrompt | EditPrompt]:
    llm = stages.llm[variant]
    assert isinstance(llm, FakeLLM)
    return llm.prompts


def send(client: httpx.Client, case: Case) -> httpx.Response:
    if case.content is not None:
        headers = {"Content-Type": "application/json"} | case.headers
        return client.request(case.method, case.path, content=case.content, headers=headers)
    return client.request(case.method, case.path, json=case.body, headers=case.headers)


def test_clone_with_a_preset_voice(client: TestClient, stages: Stages, voices: Voices) -> None:
    response = client.post(SPEECH, json={"input": "你好", "voice": "robot", "step_audio": {}, "seed": 5})
    (prompt,) = prompts(stages)
    assert isinstance(prompt, ClonePrompt)
    assert (prompt.text, prompt.transcript) == ("你好", voices.get("robot").transcript)
    assert response.headers["content-type"] == "audio/wav"
    assert response.headers["x-audio-duration"] == "0.500"
    assert response.headers["x-model-variant"] == "base"


def test_clone_with_a_reference_of_the_caller_s_own(client: TestClient, stages: Stages) -> None:
    options = {"prompt_text": " my words ", "prompt_audio_base64": base64_of(CLIP), "model_variant": "awq"}
    assert client.post(SPEECH, json={"input": "hi", "step_audio": options}).status_code == 200
    (prompt,) = prompts(stages, "awq")
    assert isinstance(prompt, ClonePrompt) and prompt.transcript == "my words"


@pytest.mark.parametrize(("name", "media_type"), [(None, "audio/mpeg"), ("flac", "audio/flac"), ("opus", "audio/ogg")])
def test_format_defaults_to_openai_s_and_follows_the_request(
    client: TestClient, name: str | None, media_type: str
) -> None:
    response = client.post(SPEECH, json={"input": "hi", "response_format": name})
    assert response.headers["content-type"] == media_type
    assert decode(response.content, ClipLimits(0.1, 30)).duration == pytest.approx(0.5, abs=0.03)


def test_speed_shortens_the_audio_and_the_header_says_so(client: TestClient) -> None:
    response = client.post(SPEECH, json={"input": "hi", "speed": 2, "response_format": "pcm"})
    assert len(response.content) / 48_000 == pytest.approx(0.25, abs=0.02)
    assert float(response.headers["x-audio-duration"]) == pytest.approx(len(response.content) / 48_000, abs=1e-3)


@pytest.mark.parametrize(
    ("options", "instructions", "instruction"),
    [
        ({}, None, "Make the following audio more whisper style. The text"),
        ({"intensity": 0.1}, None, "Make the following audio more slightly whisper style. The text"),
        ({"intensity": 3}, "with a smile", "Make the following audio more dramatically whisper, with a smile style."),
        ({"edit_info": "remove", "intensity": 3}, None, "Remove any speaking styles in the following audio"),
        ({"mode": "denoise", "edit_info": None, "audio_text": None}, None, "Remove any noise"),
        ({"mode": "paralinguistic", "edit_info": None}, None, "Add some non-verbal sounds to make the audio more"),
    ],
)
def test_edit_instructions(
    client: TestClient, stages: Stages, options: dict[str, object], instructions: str | None, instruction: str
) -> None:
    body = {"input": "words [Laughter]", "step_audio": EDIT | options, "instructions": instructions}
    assert client.post(SPEECH, json=body).status_code == 200
    (prompt,) = prompts(stages)
    assert isinstance(prompt, EditPrompt) and prompt.instruction.startswith(instruction)


def test_upload_takes_audio_as_files(client: TestClient, stages: Stages) -> None:
    payload = '{"input": "hi", "step_audio": {"prompt_text": "my words"}}'
    files = {"prompt_audio_file": ("a.wav", CLIP)}
    response = client.post(SPEECH + "/upload", data={"payload": payload}, files=files)
    assert response.status_code == 200
    (prompt,) = prompts(stages)
    assert isinstance(prompt, ClonePrompt) and prompt.transcript == "my words"


def test_metadata_comes_back_as_headers(client: TestClient) -> None:
    response = client.post(SPEECH, json={"input": "hi", "metadata": {"job": "42"}})
    assert response.headers["x-metadata-job"] == "42"


def test_models_name_each_variant_and_its_state(client: TestClient) -> None:
    models = {model["id"]: (model["variant"], model["state"]) for model in client.get("/v1/models").json()["data"]}
    assert models == {
        "step-audio-editx": ("base", "ready"),
        "step-audio-editx-base": ("base", "ready"),
        "step-audio-editx-awq": ("awq", "scaled_to_zero"),
    }
    assert client.get("/v1/models/step-audio-editx-awq").json()["object"] == "model"
    assert client.get("/v1/models/step-audio-editx-bnb").status_code == 404


def test_a_variant_that_is_not_deployed_is_not_found(client: TestClient) -> None:
    for body in ({"model": "step-audio-editx-bnb"}, {"step_audio": {"model_variant": "bnb"}}):
        error = client.post(SPEECH, json={"input": "hi"} | body)
        assert (error.status_code, error.json()["error"]["code"]) == (404, "model_not_found")


def test_voices_and_tags_are_listed(client: TestClient) -> None:
    listed = client.get("/v1/audio/voices").json()
    assert listed == client.get("/v1/voices").json()
    assert "story_teller" in {voice["id"] for voice in listed["data"]}
    assert "happy" in client.get("/v1/tags").json()["emotion"]


def test_ready_only_when_every_required_stage_is(stages: Stages, voices: Voices) -> None:
    service = service_over(stages, voices)
    client = TestClient(create_app(service))
    assert client.get("/healthz").status_code == 200
    assert client.get("/readyz").status_code == 200
    service.states.states["Vocoder"] = "starting"  # type: ignore[attr-defined]
    response = client.get("/readyz")
    service.states.states["Vocoder"] = "ready"  # type: ignore[attr-defined]
    assert (response.status_code, response.json()["waiting_for"]) == (503, ["Vocoder"])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input_is_refused_at_once_and_the_next_request_works(
    client: TestClient, stages: Stages, caplog: pytest.LogCaptureFixture, case: Case
) -> None:
    seconds = []
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            started = time.process_time()
            response = send(client, case)
            seconds.append(time.process_time() - started)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (case.status, case.code), error
    assert error["type"] == "invalid_request_error" and error["message"]
    if case.param is not None:
        assert error["param"] == case.param
    assert min(seconds) < 0.1 + len(response.request.content) / 50e6 and not caplog.records
    assert prompts(stages) == [] and stages.encoder.clips == []  # type: ignore[attr-defined]
    assert client.post(SPEECH, json={"input": "hi"}).status_code == 200


@pytest.mark.parametrize("text", GOOD_TEXTS.values(), ids=GOOD_TEXTS)
def test_unusual_text_is_spoken_as_it_is(client: TestClient, stages: Stages, text: str) -> None:
    assert client.post(SPEECH, json={"input": text}).status_code == 200
    assert "".join(prompt.text for prompt in prompts(stages)) == text  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("error", "status", "kind", "retry"),
    [
        (InvalidInputError("no room", "input", "prompt_too_long"), 400, "invalid_request_error", False),
        (OverloadedError("full"), 429, "rate_limit_error", True),
        (DeadlineError("late"), 503, "timeout_error", True),
        (DeadlineError("late", True), 408, "timeout_error", False),
        (StageError("the vocoder died"), 500, "server_error", False),
        (ValueError("a secret\nin a traceback"), 500, "server_error", False),
    ],
)
def test_what_a_stage_raises_becomes_one_clear_error(
    voices: Voices, error: Exception, status: int, kind: str, retry: bool
) -> None:
    client = TestClient(create_app(service_over(fake_stages(error), voices)), raise_server_exceptions=False)
    response = client.post(SPEECH, json={"input": "hi"}, headers={"x-request-id": "abc"})
    assert (response.status_code, response.json()["error"]["type"]) == (status, kind)
    assert ("retry-after" in response.headers) is retry
    assert "secret" not in response.text
    assert status != 500 or "abc" in response.text


@pytest.fixture
def limited(stages: Stages, voices: Voices) -> Callable[..., TestClient]:
    def build(**args: object) -> TestClient:
        return TestClient(create_app(service_over(stages, voices, **args)), raise_server_exceptions=False)

    return build


def test_a_body_over_the_limit_is_refused_declared_or_not(limited: Callable[..., TestClient]) -> None:
    client = limited(limits={"max_body_mb": 0.001})
    big = b'{"input": "' + b"a" * 2000 + b'"}'
    assert client.post(SPEECH, content=big).status_code == 413
    assert client.post(SPEECH, content=iter([big[:500], big[500:]])).status_code == 413
    assert client.post(SPEECH, json={"input": "hi"}).status_code == 200


def test_keys_are_asked_for_when_configured(limited: Callable[..., TestClient]) -> None:
    client = limited(api_keys=["right", "other"])
    assert client.get("/healthz").status_code == 200
    for header in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "right"}, {"Authorization": "Bearer "}):
        response = client.post(SPEECH, json={"input": "hi"}, headers=header)
        assert (response.status_code, response.json()["error"]["type"]) == (401, "authentication_error")
    assert client.post(SPEECH, json={"input": "hi"}, headers={"Authorization": "Bearer other"}).status_code == 200


def test_the_rate_limit_says_when_to_come_back(limited: Callable[..., TestClient]) -> None:
    client = limited(limits={"requests_per_minute": 2})
    answers = [client.post(SPEECH, json={"input": "hi"}) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert 25 <= int(answers[2].headers["retry-after"]) <= 30
    assert client.get("/v1/models").status_code == 200


def test_the_server_s_deadline_is_a_503_and_the_client_s_a_408(voices: Voices) -> None:
    class SlowLLM(FakeLLM):
        async def generate(self, *args: object) -> object:  # type: ignore[override]
            import asyncio

            await asyncio.sleep(30)
            return None

    stages = fake_stages()
    slow = Stages(stages.encoder, {"base": SlowLLM()}, stages.vocoder)  # type: ignore[dict-item]
    client = TestClient(create_app(service_over(slow, voices, limits={"request_timeout_s": 0.3})))
    response = client.post(SPEECH, json={"input": "hi"})
    assert (response.status_code, response.headers["retry-after"]) == (503, "5")
    response = client.post(SPEECH, json={"input": "hi"}, headers={"x-request-timeout-seconds": "0.1"})
    assert response.status_code == 408


def test_the_api_s_description_is_served_with_its_example(client: TestClient) -> None:
    schema = client.get("/openapi.json").json()
    (example,) = schema["components"]["schemas"]["SpeechRequest"]["examples"]
    assert client.post(SPEECH, json=example).status_code == 200
    assert client.get("/docs").status_code == 200


def test_samples_survive_the_way_through_the_service(client: TestClient) -> None:
    data = np.frombuffer(client.post(SPEECH, json={"input": "hi", "response_format": "pcm"}).content, "<i2")
    assert len(data) == 12_000 and np.abs(data).max() == pytest.approx(16_384, abs=2)


def test_flaws_and_retries_are_reported(voices: Voices) -> None:
    class Endless(FakeLLM):
        async def generate(self, prompt: Prompt, sampling: Sampling) -> Generation:
            return replace(await super().generate(prompt, sampling), finish_reason="length")

    stages = fake_stages()
    client = TestClient(create_app(service_over(Stages(stages.encoder, {"base": Endless()}, stages.vocoder), voices)))
    response = client.post(SPEECH, json={"input": "hi"})
    assert (response.headers["x-audio-flaws"], response.headers["x-audio-retries"]) == ("runaway", "1")
    assert "x-audio-retries" not in client.post(SPEECH, json={"input": "hi", "seed": 1}).headers
    limited = client.post(SPEECH, json={"input": "hi", "max_new_tokens": 10})
    assert "x-audio-flaws" not in limited.headers


def test_audio_over_30_s_is_edited_in_pieces(client: TestClient, stages: Stages) -> None:
    samples = np.concatenate([tone(10, rate=8_000), np.zeros(4_000, np.float32)] * 4)
    words = "The first half is this. The second half is that. And so on it goes. Until the end."
    options = EDIT | {"audio_text": words, "input_audio_base64": base64_of(wav(samples, 8_000))}
    response = client.post(SPEECH, json={"step_audio": options})
    assert response.headers["x-audio-duration"] == "1.000"
    asked = [prompt.instruction for prompt in prompts(stages)]  # type: ignore[union-attr]
    assert len(asked) == 2 and "first half" in asked[0] and "Until the end." in asked[1]
