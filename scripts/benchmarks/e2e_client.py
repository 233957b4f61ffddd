"""A client that times what it receives: whole answers and streams, one at a time or many at once."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import httpx

from scripts.benchmarks.e2e_figures import Answer, Chunk, server_timing
from scripts.benchmarks.encoder_models import speech_like
from serve_app.audio_format import encode

SPEECH = "/v1/audio/speech"
TEXT = "The harbour lay quiet in the morning light, and only the gulls were awake."
TRANSCRIPT = "A clear voice reads a short passage from a book about the sea."
VOICES = 8


@dataclass
class Client:
    """Sends requests to one application. Every request has a seed of its own, every cold one a clip of its own."""

    http: httpx.AsyncClient
    clip_s: float
    seeds: "count[int]" = field(default_factory=lambda: count(1))

    async def whole(self, tokens: int) -> Answer:
        """A file in a voice that is known by name."""
        seed = next(self.seeds)
        return await self._whole(SPEECH, {"json": body(tokens, seed) | {"voice": voice(seed)}})

    async def cold(self, tokens: int) -> Answer:
        """A file in the voice of a clip that was never sent before, as an upload."""
        seed = next(self.seeds)
        fields = body(tokens, seed) | {"step_audio": {"prompt_text": TRANSCRIPT}}
        clip = wav(self.clip_s, 1_000_000 + seed)
        form = {"data": {"payload": json.dumps(fields)}, "files": {"prompt_audio_file": ("clip.wav", clip)}}
        return await self._whole(f"{SPEECH}/upload", form)

    async def ask(self, fields: dict[str, Any]) -> Answer:
        """A file, for a body of the caller's own."""
        return await self._whole(SPEECH, {"json": fields})

    async def _whole(self, path: str, content: dict[str, Any]) -> Answer:
        started = time.perf_counter()
        response = await self.http.post(path, **content)
        total = time.perf_counter() - started
        refuse(response)
        stages = server_timing(response.headers["server-timing"])
        duration = float(response.headers["x-audio-duration"])
        return Answer((Chunk(total, len(response.content)),), duration, total, stages)

    async def stream(self, tokens: int) -> Answer:
        """PCM as it is spoken, in a voice that is known by name."""
        seed = next(self.seeds)
        fields = body(tokens, seed) | {"voice": voice(seed), "response_format": "pcm", "stream_format": "audio"}
        started, chunks = time.perf_counter(), []
        async with self.http.stream("POST", SPEECH, json=fields) as response:
            if response.is_error:
                await response.aread()
            refuse(response)
            async for data in response.aiter_raw():
                chunks.append(Chunk(time.perf_counter() - started, len(data)))
        seconds = sum(chunk.seconds for chunk in chunks)
        return Answer(tuple(chunks), seconds, time.perf_counter() - started, {})

    async def warm(self, tokens: int) -> None:
        """Let the encoder know every voice, and every stage the shapes."""
        for _ in range(VOICES):
            await self.whole(tokens)
        await self.stream(tokens)


def connect(url: str, clip_s: float) -> Client:
    """To be used and closed in one event loop."""
    limits = httpx.Limits(max_connections=128, max_keepalive_connections=128)
    return Client(httpx.AsyncClient(base_url=url, timeout=150, limits=limits, trust_env=False), clip_s)


async def together(ask: Callable[[], Awaitable[Answer]], workers: int, rounds: int) -> tuple[list[Answer], float]:
    """``workers`` clients that each ask ``rounds`` times, without a pause: the answers, and seconds for all."""

    async def work() -> list[Answer]:
        return [await ask() for _ in range(rounds)]

    started = time.perf_counter()
    answers = await asyncio.gather(*(work() for _ in range(workers)))
    return [answer for some in answers for answer in some], time.perf_counter() - started


def refuse(response: httpx.Response) -> None:
    """Raises RuntimeError with what the server said of a failed request."""
    if response.is_error:
        raise RuntimeError(f"{response.status_code}: {response.text[:500]}")


def body(tokens: int, seed: int) -> dict[str, Any]:
    """What all requests have in common. A high temperature keeps random weights from ending early."""
    return {"input": TEXT, "seed": seed, "max_new_tokens": tokens, "temperature": 1.5, "response_format": "wav"}


def voice(number: int) -> str:
    """One of the voices that ``write_voices`` writes."""
    return f"bench_{number % VOICES}"


def wav(seconds: float, seed: int) -> bytes:
    """A clip of noise with the rhythm of speech; another seed gives another clip."""
    return encode(speech_like(seconds, seed).samples[0], "wav")


def write_voices(folder: Path, seconds: float) -> Path:
    """A folder of voices for the application to load."""
    folder.mkdir(parents=True)
    entries = {}
    for number in range(VOICES):
        (folder / f"{voice(number)}.wav").write_bytes(wav(seconds, number))
        entries[voice(number)] = {"file": f"{voice(number)}.wav", "transcript": TRANSCRIPT}
    (folder / "voices.json").write_text(json.dumps(entries), encoding="utf-8")
    return folder
