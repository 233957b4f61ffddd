"""ASGI middleware that reads a request's body whole, within limits of size and time, before any route runs.

A client that declares or sends too much gets 413; one that stops sending half-way gets 408 and holds nothing.
"""

import asyncio

from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.errors import envelope


class BodyLimit:
    """Args: max_bytes of a body; timeout_s within which all of it has to arrive."""

    def __init__(self, app: ASGIApp, max_bytes: int, timeout_s: float) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = await self._read(scope, receive)
        if body is None:
            return
        if isinstance(body, JSONResponse):
            await body(scope, receive, send)
            return
        await self._app(scope, _replay(body, receive), send)

    async def _read(self, scope: Scope, receive: Receive) -> bytes | JSONResponse | None:
        """The body, the refusal, or None if the client is gone."""
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self._max_bytes:
            return self._too_large()
        body = bytearray()
        try:
            async with asyncio.timeout(self._timeout_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    body += message.get("body", b"")
                    if len(body) > self._max_bytes:
                        return self._too_large()
                    if not message.get("more_body", False):
                        return bytes(body)
        except TimeoutError:
            return envelope(408, f"the body did not arrive within {self._timeout_s:g} s", "timeout_error")

    def _too_large(self) -> JSONResponse:
        mib = self._max_bytes / 2**20
        return envelope(
            413, f"the body is over the limit of {mib:g} MiB", "invalid_request_error", code="body_too_large"
        )


def _replay(body: bytes, receive: Receive) -> Receive:
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay
