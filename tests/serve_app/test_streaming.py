import asyncio
import base64
import json
from collections.abc import AsyncGenerator
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from deployments.errors import InvalidInputError, StageError
from deployments.types import Generation, Prompt, Reference, Sampling
from serve_app.audio_format import ClipLimits, decode
from serve_app.ingress import create_app
from serve_app.pipeline import LLMStage, Stages
from serve_app.requests import Uploads
from serve_app.schemas import SpeechRequest
from serve_app.streaming import Ahead
from serve_app.voices import Voices
from tests.audio import base64_of, tone, wav
from tests.bad_input import CASES, SPEECH, Case
from tests.serve_app.conftest import service_over
from tests.serve_app.fakes import FakeEncoder, FakeLLM, FakeVocoder
from tests.serve_app.test_ingress import send

LONG = "This is the first sentence of a long text that is spoken. " * 8


class Chunks(FakeVocoder):
    """A vocoder whose streams give these chunks, or raise these errors; remembers which were closed."""

    def __init__(self, *parts: np.ndarray | Exception | float) -> None:
        super().__init__()
        self.parts = parts
        self.open = 0
        self.closed = 0

    async def stream(
        self, llm: LLMStage, prompt: Prompt, sampling: Sampling, reference: Reference
    ) -> AsyncGenerator[np.ndarray | Generation, None]:
        self.open += 1
        try:
            for part in self.parts:
                if isinstance(part, Exception):
                    raise part
                if isinstance(part, float):
                    await asyncio.sleep(part)
                    continue
                yield part
            yield Generation(np.empty(0, np.int32), "stop", 7, 0.0, 0.25)
        finally:
            self.closed += 1


def client_over(vocoder: FakeVocoder, voices: Voices, **args: Any) -> TestClient:
    stages = Stages(FakeEncoder(), {"base": FakeLLM(), "awq": FakeLLM()}, vocoder)
    return TestClient(create_app(service_over(stages, voices, **args)), raise_server_exceptions=False)


def events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line.removeprefix("data: ")) for line in text.split("\n\n") if line]


@pytest.mark.parametrize("name", ["mp3", "opus", "aac", "flac", "wav"])
def test_streamed_bytes_are_a_file_of_the_format(client: TestClient, name: str) -> None:
    response = client.post(SPEECH, json={"input": "hi", "response_format": name, "stream_format": "audio"})
    assert response.status_code == 200 and "content-length" not in response.headers
    assert decode(response.content, ClipLimits(0.1, 30)).duration == pytest.approx(0.5, abs=0.1)


def test_stream_true_means_bytes_and_they_are_the_samples(client: TestClient) -> None:
    whole = client.post(SPEECH, json={"input": "hi", "response_format": "pcm"})
    streamed = client.post(SPEECH, json={"input": "hi", "response_format": "pcm", "stream": True})
    assert streamed.content == whole.content and len(whole.content) == 24_000


def test_events_carry_the_audio_then_usage_and_times(client: TestClient) -> None:
    body = {"input": "hi", "response_format": "pcm", "stream_format": "sse", "metadata": {"job": "1"}}
    response = client.post(SPEECH, json=body)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["x-metadata-job"] == "1"
    *deltas, done = events(response.text)
    assert {delta["type"] for delta in deltas} == {"speech.audio.delta"} and len(deltas) == 2
    assert sum(len(base64.b64decode(delta["audio"])) for delta in deltas) == 24_000
    assert done["type"] == "speech.audio.done"
    assert done["usage"] == {"input_tokens": 7, "output_tokens": 20, "total_tokens": 27}
    assert done["duration"] == 0.5 and list(done["timings"]) == ["encode", "queue", "llm", "vocode", "total"]


def test_long_text_streams_segment_after_segment_with_pauses(client: TestClient, stages: Stages) -> None:
    body = {"input": LONG, "response_format": "pcm", "stream_format": "sse", "seed": 9}
    *deltas, done = events(client.post(SPEECH, json=body).text)
    llm = stages.llm["base"]
    assert isinstance(llm, FakeLLM)
    count = len(llm.prompts)
    assert count > 2 and [sampling.seed for sampling in llm.samplings] == list(range(9, 9 + count))
    samples = sum(len(base64.b64decode(delta["audio"])) for delta in deltas) // 2
    assert samples == count * 12_000 + (count - 1) * 3600
    assert done["usage"]["input_tokens"] == 7 * count


def test_an_edit_streams_its_last_round(client: TestClient, stages: Stages) -> None:
    options = {"mode": "emotion", "edit_info": "sad", "audio_text": "x", "n_edit_iter": 3}
    options["input_audio_base64"] = base64_of(wav(tone(1.0)))
    response = client.post(SPEECH, json={"step_audio": options, "stream": True, "response_format": "pcm", "seed": 4})
    llm = stages.llm["base"]
    assert isinstance(llm, FakeLLM)
    assert len(response.content) == 24_000
    assert [sampling.seed for sampling in llm.samplings] == [4, 5, 6]


def test_speed_applies_to_streams(client: TestClient) -> None:
    body = {"input": "hi", "response_format": "pcm", "stream": True, "speed": 2}
    assert len(client.post(SPEECH, json=body).content) / 2 == pytest.approx(6000, rel=0.05)


@pytest.mark.parametrize("case", [case for case in CASES if isinstance(case.body, dict)], ids=lambda case: case.name)
def test_early_errors_have_real_codes(client: TestClient, case: Case) -> None:
    streamed = Case(**(vars(case) | {"body": case.body | {"stream_format": "sse"}}))
    response = send(client, streamed)
    assert (response.status_code, response.json()["error"]["code"]) == (case.status, case.code)


def test_an_error_before_the_first_sample_has_a_real_code(voices: Voices) -> None:
    client = client_over(Chunks(InvalidInputError("no room", "input", "prompt_too_long")), voices)
    response = client.post(SPEECH, json={"input": "hi", "stream_format": "sse"})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "prompt_too_long")


def test_a_late_error_ends_the_events_and_cuts_the_connection(voices: Voices) -> None:
    vocoder = Chunks(tone(0.5), StageError("died\nsecret"))
    app = create_app(service_over(Stages(FakeEncoder(), {"base": FakeLLM()}, vocoder), voices))
    client = TestClient(app)
    body = {"input": "hi", "response_format": "pcm", "stream_format": "sse"}
    with pytest.raises(ConnectionAbortedError):  # the test client's way to say that the server broke off
        client.post(SPEECH, json=body)
    assert vocoder.closed == 1


def test_a_late_gap_as_long_as_the_deadline_ends_the_stream(voices: Voices) -> None:
    vocoder = Chunks(tone(0.5), 30.0)
    service = service_over(
        Stages(FakeEncoder(), {"base": FakeLLM()}, vocoder), voices, limits={"request_timeout_s": 0.3}
    )
    with pytest.raises(ConnectionAbortedError):
        TestClient(create_app(service)).post(SPEECH, json={"input": "hi", "stream": True, "response_format": "pcm"})
    assert vocoder.closed == 1


async def test_leaving_a_stream_closes_every_segment(voices: Voices) -> None:
    vocoder = Chunks(tone(0.5), 30.0)
    service = service_over(Stages(FakeEncoder(), {"base": FakeLLM()}, vocoder), voices)
    body = SpeechRequest.model_validate({"input": LONG, "response_format": "pcm", "stream": True})
    spoken = await service.stream(body, Uploads())
    assert len(await anext(spoken.chunks)) == 24_000
    await asyncio.sleep(0.01)
    await spoken.chunks.aclose()
    assert vocoder.open == vocoder.closed >= 1


async def test_a_reader_that_is_slow_holds_its_producer_back() -> None:
    made = 0

    async def parts() -> AsyncGenerator[np.ndarray | Generation, None]:
        nonlocal made
        while True:
            made += 1
            yield np.zeros(1, np.float32)

    ahead = Ahead(parts())
    await ahead.next()
    for _ in range(50):
        await asyncio.sleep(0)
    assert made <= 11
    await ahead.close()
