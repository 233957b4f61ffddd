"""ASGI middleware that decides who may ask, and how much at once: keys, request rate, requests in flight.

Each ingress replica counts for itself. Listings and health stay free of the rate: they occupy no stage.
"""

import hmac
import time
from collections import OrderedDict

from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from serve_app.errors import envelope

_CLIENTS = 10_000
_WORKING = ("/v1/audio/speech", "/v1/audio/voices")


class Auth:
    """Refuses requests under /v1 without one of the keys; without keys everybody may ask."""

    def __init__(self, app: ASGIApp, keys: list[str]) -> None:
        self._app = app
        self._keys = [key.encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        guarded = scope["type"] == "http" and scope["path"].startswith("/v1/") and self._keys
        if guarded and not self._known(scope):
            response = envelope(401, "missing or wrong API key", "authentication_error", code="invalid_api_key")
            response.headers["WWW-Authenticate"] = "Bearer"
            await response(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _known(self, scope: Scope) -> bool:
        scheme, _, given = bearer(scope).partition(b" ")
        matches = [hmac.compare_digest(given.strip(), key) for key in self._keys]
        return scheme.lower() == b"bearer" and any(matches)


class Admission:
    """Limits requests that occupy a stage: so many in flight at once, so many per minute for each key or address."""

    def __init__(self, app: ASGIApp, max_in_flight: int, per_minute: float | None) -> None:
        self._app = app
        self._max_in_flight = max_in_flight
        self._in_flight = 0
        self._rate = _Rate(per_minute) if per_minute else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or not scope["path"].startswith(_WORKING):
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        self._in_flight += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._in_flight -= 1

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        if self._in_flight >= self._max_in_flight:
            return _too_many("the server is busy; try again later", "queue_full", 1)
        if self._rate is None:
            return None
        wait = self._rate.take(bearer(scope) or str((scope.get("client") or ("",))[0]).encode())
        return _too_many("rate limit reached; try again later", "rate_limit_exceeded", wait) if wait else None


class _Rate:
    """A token bucket for each client; a minute's worth may come in one burst."""

    def __init__(self, per_minute: float) -> None:
        self._capacity = max(1.0, per_minute)
        self._per_second = per_minute / 60
        self._buckets: OrderedDict[bytes, tuple[float, float]] = OrderedDict()

    def take(self, client: bytes) -> int:
        """0 if the client may go on, else the seconds to wait."""
        now = time.monotonic()
        level, since = self._buckets.pop(client, (self._capacity, now))
        level = min(self._capacity, level + (now - since) * self._per_second)
        admitted = level >= 1
        self._buckets[client] = (level - 1 if admitted else level, now)
        if len(self._buckets) > _CLIENTS:
            self._buckets.popitem(last=False)
        return 0 if admitted else max(1, round((1 - level) / self._per_second))


def bearer(scope: Scope) -> bytes:
    """The Authorization header, empty if there is none."""
    return dict(scope["headers"]).get(b"authorization", b"")


def _too_many(message: str, code: str, wait: int) -> JSONResponse:
    response = envelope(429, message, "rate_limit_error", code=code)
    response.headers["Retry-After"] = str(wait)
    return response
