import asyncio
import http.server
import ipaddress
import socket
import threading
from collections.abc import Iterator

import pytest

from deployments.errors import InvalidInputError
from serve_app import fetch as module
from serve_app.fetch import fetch

PARAM = "step_audio.input_audio_url"


class Handler(http.server.BaseHTTPRequestHandler):
    """/ok answers, /big is large, /slow waits, /missing is a 404, /to/X redirects to X, /loop to itself."""

    def do_GET(self) -> None:
        if self.path.startswith("/to/"):
            self.redirect(self.path.removeprefix("/to/"))
        elif self.path == "/loop":
            self.redirect("/loop")
        elif self.path == "/slow":
            threading.Event().wait(2)
        else:
            self.answer(404 if self.path == "/missing" else 200, b"x" * (5000 if self.path == "/big" else 10))

    def redirect(self, target: str) -> None:
        self.send_response(302)
        self.send_header("Location", target)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        return


@pytest.fixture
def address() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def loopback_is_public(monkeypatch: pytest.MonkeyPatch) -> None:
    """The only server a test can reach is here."""
    monkeypatch.setattr(module, "_is_public", lambda address: address == ipaddress.ip_address("127.0.0.1"))


def reason(url: str, timeout_s: float = 1.0) -> str:
    with pytest.raises(InvalidInputError) as caught:
        asyncio.run(fetch(url, PARAM, 1000, timeout_s))
    assert (caught.value.param, caught.value.code) == (PARAM, "url_not_fetched")
    return str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/a.wav",
        "http://localhost/a.wav",
        "http://[::1]/a.wav",
        "http://10.1.2.3/",
        "http://169.254.169.254/latest/meta-data/",
        "http://[::ffff:127.0.0.1]/",
        "http://[2002:7f00:1::]/",
        "http://0.0.0.0/",
        "http://2130706433/",
        "http://0x7f.1/",
        "http://100.64.0.1/",
        "http://224.0.0.1/",
    ],
)
def test_addresses_that_are_not_public_are_refused(url: str) -> None:
    assert "not a public address" in reason(url) or "no address" in reason(url)


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://example.com/a", "http://user@example.com/", "http://", "x"]
)
def test_only_plain_http_urls_are_fetched(url: str) -> None:
    assert "only plain http" in reason(url)


@pytest.mark.usefixtures("loopback_is_public")
def test_a_public_url_is_fetched_through_a_redirect(address: str) -> None:
    assert asyncio.run(fetch(f"{address}/ok", PARAM, 1000, 1)) == b"x" * 10
    assert asyncio.run(fetch(f"{address}/to/{address}/ok", PARAM, 1000, 1)) == b"x" * 10


@pytest.mark.usefixtures("loopback_is_public")
def test_a_redirect_is_checked_like_the_first_address(address: str) -> None:
    assert "not a public address" in reason(f"{address}/to/http://127.0.0.2/ok")
    assert "only plain http" in reason(f"{address}/to/file:///etc/passwd")


@pytest.mark.usefixtures("loopback_is_public")
@pytest.mark.parametrize(
    ("path", "why"), [("/big", "more than"), ("/missing", "status 404"), ("/loop", "redirects"), ("/slow", "no answer")]
)
def test_size_status_redirects_and_time_are_bounded(address: str, path: str, why: str) -> None:
    assert why in reason(address + path, timeout_s=0.5)


def test_the_address_that_was_checked_is_the_one_connected_to(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    port = int(address.rpartition(":")[2])
    answers = ["127.0.0.1", "10.0.0.1"]

    async def resolve(self: object, host: str, port: int, **options: object) -> list[tuple[object, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (answers.pop(0), port))]

    monkeypatch.setattr(module, "_is_public", lambda address: str(address) == "127.0.0.1")
    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", resolve)
    body = asyncio.run(fetch(f"http://rebinding.example:{port}/ok", PARAM, 1000, 1))
    assert body == b"x" * 10 and answers == ["10.0.0.1"]
