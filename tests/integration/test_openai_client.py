"""The official client against the running application."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from openai import BadRequestError, NotFoundError, OpenAI, RateLimitError

from serve_app.audio_format import MEDIA_TYPES, ClipLimits, decode
from tests.integration.conftest import MAX_IN_FLIGHT, Server

# Samples in one frame of each codec at 24 kHz.
FRAME = {"mp3": 576, "opus": 480, "aac": 1024, "flac": 4096, "wav": 1, "pcm": 1}
TOKENS = {"max_new_tokens": 25, "seed": 1}
SAMPLES = 25 // 5 * 2880


@pytest.fixture(scope="module")
def openai(server: Server) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.mark.parametrize("name", MEDIA_TYPES)
def test_every_format_to_a_file(openai: OpenAI, tmp_path: Path, name: str) -> None:
    path = tmp_path / f"speech.{name}"
    with openai.audio.speech.with_streaming_response.create(
        model="step-audio-editx",
        voice="story_teller",
        input="Hello there.",
        response_format=name,  # type: ignore[arg-type]
        extra_body=TOKENS,
    ) as response:
        assert response.headers["content-type"] == MEDIA_TYPES[name]
        response.stream_to_file(path)
    if name == "pcm":
        assert path.stat().st_size == 2 * SAMPLES
        return
    clip = decode(path.read_bytes(), ClipLimits(0.1, 30))
    assert clip.samples.shape[0] == 1 and clip.sample_rate == (48_000 if name == "opus" else 24_000)
    length = clip.samples.shape[1] * 24_000 // clip.sample_rate
    assert abs(-(-length // FRAME[name]) - -(-SAMPLES // FRAME[name])) <= 1


def test_a_full_server_is_the_client_s_rate_limit_error(openai: OpenAI) -> None:
    def speak(seed: int) -> bool:
        try:
            body = {"max_new_tokens": 10, "seed": seed}
            openai.audio.speech.create(model="step-audio-editx", voice="robot", input="hi", extra_body=body)
        except RateLimitError as error:
            return error.code == "queue_full"
        return False

    with ThreadPoolExecutor(3 * MAX_IN_FLIGHT) as pool:
        assert any(pool.map(speak, range(3 * MAX_IN_FLIGHT)))


def test_models_are_listed(openai: OpenAI) -> None:
    names = {model.id for model in openai.models.list()}
    assert names == {"step-audio-editx"} | {f"step-audio-editx-{variant}" for variant in ("base", "bnb", "awq")}
    assert openai.models.retrieve("step-audio-editx-base").owned_by == "stepfun-ai"


def test_errors_arrive_as_the_client_s_classes(openai: OpenAI) -> None:
    with pytest.raises(BadRequestError) as bad:
        openai.audio.speech.create(model="step-audio-editx", voice="story_teller", input="")
    assert (bad.value.param, bad.value.code) == ("input", "text_empty")
    with pytest.raises(NotFoundError) as missing:
        openai.audio.speech.create(model="step-audio-editx", voice="nobody", input="hi")
    assert (missing.value.param, missing.value.code) == ("voice", "voice_not_found")
