"""What a result looks like over HTTP: one file, a stream of its bytes, or server-sent events.

A stream's first bytes are there before its status line is sent, so early errors have real codes. A late one ends
the events with speech.audio.error, and in both cases the connection is cut: a short file is never a silent one.
"""

import base64
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import Response
from fastapi.responses import StreamingResponse

from deployments.types import SAMPLE_RATE
from serve_app.audio_format import MEDIA_TYPES
from serve_app.errors import late_error
from serve_app.service import Result, Spoken


class _Cut(ConnectionAbortedError):
    """Raised once a late failure was told and logged, so that the connection is cut and not ended."""


def audio_file(result: Result, metadata: dict[str, str]) -> Response:
    """The audio with the headers of the HTTP contract."""
    headers = {
        "Server-Timing": result.timings.header(),
        "X-Audio-Duration": f"{result.duration:.3f}",
        "X-Encoder-Cache": "hit" if result.timings.cached else "miss",
    }
    if result.audio.flaws:
        headers["X-Audio-Flaws"] = ", ".join(sorted(result.audio.flaws))
    if result.timings.retries:
        headers["X-Audio-Retries"] = str(result.timings.retries)
    headers |= _headers(result.job.variant, metadata)
    return Response(result.data, media_type=MEDIA_TYPES[result.job.format], headers=headers)


def audio_stream(spoken: Spoken, metadata: dict[str, str], request_id: str) -> Response:
    """The audio's bytes while it is being spoken."""
    headers = _headers(spoken.job.variant, metadata)
    return StreamingResponse(_bytes(spoken, request_id), media_type=MEDIA_TYPES[spoken.job.format], headers=headers)


async def _bytes(spoken: Spoken, request_id: str) -> AsyncGenerator[bytes, None]:
    async with aclosing(spoken.chunks) as chunks:
        try:
            async for chunk in chunks:
                yield chunk
        except Exception as error:
            late_error(error, request_id)
            raise _Cut from None


def event_stream(spoken: Spoken, metadata: dict[str, str], request_id: str) -> Response:
    """The audio in events: speech.audio.delta, then speech.audio.done or speech.audio.error."""
    headers = _headers(spoken.job.variant, metadata) | {"Cache-Control": "no-cache"}
    return StreamingResponse(_events(spoken, request_id), media_type="text/event-stream", headers=headers)


async def _events(spoken: Spoken, request_id: str) -> AsyncGenerator[str, None]:
    try:
        async with aclosing(spoken.chunks) as chunks:
            async for chunk in chunks:
                yield _event("speech.audio.delta", audio=base64.b64encode(chunk).decode())
    except Exception as error:
        yield _event("speech.audio.error", error=late_error(error, request_id))
        raise _Cut from None
    yield _event("speech.audio.done", **_summary(spoken))


def _event(kind: str, **fields: Any) -> str:
    return f"data: {json.dumps({'type': kind} | fields)}\n\n"


def _summary(spoken: Spoken) -> dict[str, Any]:
    usage = spoken.usage
    tokens = {"input_tokens": usage.prompt_tokens, "output_tokens": usage.audio_tokens}
    return {
        "usage": tokens | {"total_tokens": usage.prompt_tokens + usage.audio_tokens},
        "duration": round(usage.samples / SAMPLE_RATE, 3),
        "timings": spoken.timings.milliseconds(),
        "model_variant": spoken.job.variant,
        "flaws": sorted(usage.flaws),
        "encoder_cache": "hit" if spoken.timings.cached else "miss",
    }


def _headers(variant: str, metadata: dict[str, str]) -> dict[str, str]:
    return {"X-Model-Variant": variant} | {f"X-Metadata-{name}": value for name, value in metadata.items()}
