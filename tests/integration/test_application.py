"""The whole path over HTTP, on a real local cluster."""

import base64
import io
import wave
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest

from serve_app.voices import PRESETS
from tests.integration.conftest import Server

WORDS = "The quick brown fox jumps over the lazy dog."
GROUP_SAMPLES = 2880
EDITS: dict[str, dict[str, Any]] = {
    "emotion": {"edit_info": "happy"},
    "style": {"edit_info": "whisper"},
    "speed": {"edit_info": "faster"},
    "paralinguistic": {"edit_info": "Laughter"},
    "denoise": {},
    "vad": {},
}


def source() -> str:
    return base64.b64encode(next(iter(sorted(PRESETS.glob("*.wav")))).read_bytes()).decode()


def clone_body(variant: str = "base", **fields: Any) -> dict[str, Any]:
    options = {"mode": "clone", "model_variant": variant}
    body = {"model": "step-audio-editx", "voice": "story_teller", "input": "测试语音合成效果", "step_audio": options}
    return body | {"max_new_tokens": 75} | fields


def edit_body(mode: str, variant: str = "base", rounds: int = 1) -> dict[str, Any]:
    options = {"mode": mode, "model_variant": variant, "input_audio_base64": source(), "audio_text": WORDS}
    options |= {"n_edit_iter": rounds} | EDITS[mode]
    return {"input": WORDS + " [Laughter]", "step_audio": options, "max_new_tokens": 75}


def speak(server: Server, body: dict[str, Any]) -> httpx.Response:
    with server.client() as client:
        return client.post("/v1/audio/speech", json=body)


def samples(response: httpx.Response) -> np.ndarray:
    """int16 samples of a WAV response that is as the contract says."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "audio/wav"
    with wave.open(io.BytesIO(response.content)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (24_000, 1, 2)
        data = np.frombuffer(file.readframes(file.getnframes()), np.int16)
    assert len(data) == round(float(response.headers["x-audio-duration"]) * 24_000)
    assert np.abs(data).max() > 0
    return data


def test_the_readme_request_is_answered_with_a_wav(server: Server) -> None:
    response = speak(server, clone_body(max_new_tokens=None))
    assert len(samples(response)) > 12_000
    assert response.headers["x-model-variant"] == "base"
    assert response.headers["x-request-id"]
    stages = [part.split(";")[0] for part in response.headers["server-timing"].split(", ")]
    assert stages == ["encode", "queue", "llm", "vocode", "total"]


@pytest.mark.parametrize("mode", EDITS)
def test_every_edit_mode_answers(server: Server, mode: str) -> None:
    assert len(samples(speak(server, edit_body(mode)))) % GROUP_SAMPLES == 0


def test_edits_in_two_rounds(server: Server) -> None:
    assert len(samples(speak(server, edit_body("emotion", rounds=2)))) % GROUP_SAMPLES == 0


@pytest.mark.parametrize("variant", ["bnb", "awq"])
def test_a_variant_comes_up_from_zero(server: Server, variant: str) -> None:
    with server.client() as client:
        before = client.get(f"/v1/models/step-audio-editx-{variant}").json()
        assert before["state"] in ("scaled_to_zero", "starting")
        response = client.post("/v1/audio/speech", json=clone_body(variant))
        after = client.get(f"/v1/models/step-audio-editx-{variant}").json()
    assert len(samples(response)) % GROUP_SAMPLES == 0
    assert response.headers["x-model-variant"] == variant
    assert after["state"] == "ready"


def test_the_same_seed_gives_the_same_bytes(server: Server) -> None:
    first, second, other = (speak(server, clone_body(seed=seed)) for seed in (7, 7, 8))
    assert first.content == second.content
    assert first.content != other.content


def test_ten_mixed_requests_at_once(server: Server) -> None:
    bodies = [clone_body(variant, seed=index) for index, variant in enumerate(["base", "bnb", "awq", "base"])]
    bodies += [edit_body(mode) for mode in EDITS]
    with ThreadPoolExecutor(10) as pool:
        responses = list(pool.map(lambda body: speak(server, body), bodies))
    assert all(len(samples(response)) % GROUP_SAMPLES == 0 for response in responses)
    assert len({response.headers["x-request-id"] for response in responses}) == 10
    alone, among_others = samples(speak(server, bodies[0])), samples(responses[0])
    # The same codes; a batch of another size may round a sample's last bit the other way.
    assert np.abs(alone.astype(int) - among_others).max() <= 8


def test_an_error_has_openai_s_envelope_and_the_next_request_works(server: Server) -> None:
    response = speak(server, clone_body(voice="nobody"))
    assert response.status_code == 404
    assert response.json()["error"] == {
        "message": "no voice is named 'nobody'; see /v1/audio/voices",
        "type": "invalid_request_error",
        "param": "voice",
        "code": "voice_not_found",
    }
    samples(speak(server, clone_body()))


def test_the_dashboard_lists_every_deployment_as_healthy(server: Server) -> None:
    applications = httpx.get(f"{server.dashboard}/api/serve/applications/").json()["applications"]
    deployments = applications["editx"]["deployments"]
    assert set(deployments) == {"Ingress", "Encoder", "LLM-base", "LLM-bnb", "LLM-awq", "Vocoder"}
    assert {deployment["status"] for deployment in deployments.values()} == {"HEALTHY"}
