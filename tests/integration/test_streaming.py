"""Speech that is heard while it is still being written, on a real local cluster."""

import base64
import io
import json
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import av
import httpx
import numpy as np
import pytest
from openai import OpenAI

from tests.bad_input import SPEECH
from tests.integration.conftest import Server

TOKENS = 500
BODY: dict[str, Any] = {"input": "hello", "seed": 3, "max_new_tokens": TOKENS, "temperature": 1.5}
PCM = BODY | {"response_format": "pcm", "stream_format": "audio"}


def received(server: Server, body: dict[str, Any]) -> list[tuple[float, bytes]]:
    """Chunks of an answer with the seconds after which they came."""
    started = time.perf_counter()
    with server.client() as client, client.stream("POST", SPEECH, json=body) as response:
        assert response.status_code == 200, response.read()
        return [(time.perf_counter() - started, chunk) for chunk in response.iter_raw()]


def events(chunks: list[tuple[float, bytes]]) -> list[dict[str, Any]]:
    """The server-sent events in an answer."""
    text = b"".join(chunk for _, chunk in chunks).decode()
    return [json.loads(line.removeprefix("data: ")) for line in text.split("\n\n") if line]


def decodable_seconds(data: bytes) -> float:
    """How much of a file that may end anywhere can be played."""
    seconds = 0.0
    with av.open(io.BytesIO(data)) as container:
        frames = container.decode(audio=0)
        while True:
            try:
                frame = next(frames)
            except (StopIteration, av.FFmpegError):
                return seconds
            seconds += frame.samples / frame.sample_rate


def test_the_first_bytes_come_long_before_the_last(server: Server) -> None:
    received(server, PCM | {"max_new_tokens": 50})
    chunks = received(server, PCM)
    samples = np.frombuffer(b"".join(chunk for _, chunk in chunks), "<i2")
    assert len(samples) % 2880 == 0 and len(samples) > 10 * 2880
    assert chunks[0][0] < 0.5 * chunks[-1][0]
    assert len(chunks[0][1]) < 0.3 * 2 * len(samples)


def test_the_same_seed_streams_the_same_bytes(server: Server) -> None:
    first, second = (b"".join(chunk for _, chunk in received(server, PCM)) for _ in range(2))
    assert first == second


def test_no_click_where_chunks_join(server: Server) -> None:
    *deltas, _ = events(received(server, PCM | {"stream_format": "sse"}))
    chunks = [np.frombuffer(base64.b64decode(delta["audio"]), "<i2").astype(float) for delta in deltas]
    whole = np.concatenate(chunks)
    joins = np.cumsum([len(chunk) for chunk in chunks])[:-1]
    steps = np.abs(np.diff(whole))
    assert len(joins) > 3 and max(steps[join - 20 : join + 20].max() for join in joins) <= steps.max()
    assert np.median([steps[join - 1] for join in joins]) < np.quantile(steps, 0.99)


@pytest.mark.parametrize("name", ["mp3", "opus", "aac", "flac", "wav"])
def test_every_format_decodes_while_it_is_still_arriving(server: Server, name: str) -> None:
    chunks = received(server, PCM | {"response_format": name, "max_new_tokens": 200})
    data = b"".join(chunk for _, chunk in chunks)
    whole, part = decodable_seconds(data), decodable_seconds(data[: len(data) * 2 // 3])
    assert 0.4 * whole < part < 0.8 * whole


def test_the_official_client_streams(server: Server) -> None:
    with (
        OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
        client.audio.speech.with_streaming_response.create(
            model="step-audio-editx",
            voice="robot",
            input="hello",
            response_format="pcm",
            stream_format="audio",
            extra_body={"seed": 1, "max_new_tokens": 100},
        ) as response,
    ):
        chunks = list(response.iter_bytes(4800))
    assert len(b"".join(chunks)) % 5760 == 0 and len(chunks) > 2


def test_events_end_with_usage_and_times(server: Server) -> None:
    *deltas, done = events(received(server, PCM | {"stream_format": "sse"}))
    audio = b"".join(base64.b64decode(delta["audio"]) for delta in deltas)
    assert done["type"] == "speech.audio.done" and done["duration"] == len(audio) / 48_000
    assert done["usage"]["output_tokens"] == len(audio) // 5760 * 5
    assert done["timings"]["llm"] > 0


def test_long_text_is_spoken_to_its_end(server: Server) -> None:
    text = "This is one sentence of a long text. 这是一个长句子。" * 6
    body = PCM | {"input": text, "stream_format": "sse", "max_new_tokens": 25}
    done = events(received(server, body))[-1]
    assert done["type"] == "speech.audio.done" and done["duration"] > 1.5


def test_clients_that_leave_cost_nothing(server: Server) -> None:
    started = time.perf_counter()
    received(server, PCM | {"max_new_tokens": 25})
    alone = time.perf_counter() - started

    def leave(seed: int) -> None:
        with server.client() as client, client.stream("POST", SPEECH, json=PCM | {"seed": seed}) as response:
            next(response.iter_raw())

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(leave, range(20)))
    time.sleep(0.5)
    started = time.perf_counter()
    received(server, PCM | {"max_new_tokens": 25})
    assert time.perf_counter() - started < 2 * alone + 0.5


def test_a_slow_reader_harms_nobody(server: Server) -> None:
    with server.client() as client, client.stream("POST", SPEECH, json=PCM) as response:
        slow = response.iter_raw(1000)
        next(slow)
        quick = httpx.post(server.url + SPEECH, json=PCM | {"max_new_tokens": 25}, timeout=60)
        assert quick.status_code == 200
        assert sum(len(chunk) for chunk in slow) > 100_000


def test_gaps_between_chunks_are_shorter_than_what_they_bring(server: Server) -> None:
    chunks = received(server, PCM)
    played = chunks[0][0]
    late = 0.0
    for (_, chunk), (arrived, _) in pairwise(chunks):
        played += len(chunk) / 48_000
        late = max(late, arrived - played)
    assert late < 0.5
