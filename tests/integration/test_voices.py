"""The voice library on a real cluster: stored, listed, spoken with, deleted."""

import uuid
from concurrent.futures import ThreadPoolExecutor

import httpx

from serve_app.voices import PRESETS
from tests.integration.conftest import Server
from tests.integration.test_application import clone_body, samples

URL = "/v1/audio/voices"


def store(client: httpx.Client, name: str, source: str = "robot") -> httpx.Response:
    audio = (PRESETS / f"{source}.wav").read_bytes()
    return client.post(URL, data={"name": name, "transcript": "Words."}, files={"audio_sample": ("a.wav", audio)})


def test_a_voice_is_stored_spoken_with_and_deleted(server: Server) -> None:
    name = f"voice-{uuid.uuid4().hex[:8]}"
    with server.client() as client:
        stored = store(client, name)
        assert stored.status_code == 200, stored.text
        assert stored.json() in client.get(URL).json()["data"]
        first = client.post("/v1/audio/speech", json=clone_body(voice=name, seed=1))
        again = client.post("/v1/audio/speech", json=clone_body(voice={"id": name}, seed=1))
        assert len(samples(first)) and first.content == again.content
        assert first.headers["x-encoder-cache"] == "hit" and "encode;dur=0.0" in first.headers["server-timing"]
        assert store(client, name, "xiao_mei").status_code == 200
        other = client.post("/v1/audio/speech", json=clone_body(voice=name, seed=1))
        assert len(samples(other)) and other.content != first.content
        assert client.delete(f"{URL}/{name}").json()["deleted"] is True
        gone = client.post("/v1/audio/speech", json=clone_body(voice=name))
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "voice_not_found")


def test_voices_stored_at_once_are_all_there(server: Server) -> None:
    names = [f"many-{number}" for number in range(6)]
    with server.client() as client, ThreadPoolExecutor(6) as pool:
        assert {answer.status_code for answer in pool.map(lambda name: store(client, name), names)} == {200}
        listed = {voice["id"] for voice in client.get(URL).json()["data"]}
        assert listed >= set(names)
        assert {client.delete(f"{URL}/{name}").status_code for name in names} == {200}
