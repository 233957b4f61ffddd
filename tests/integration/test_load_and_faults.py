"""What the application does under more load than it takes, with bad input, and when a stage is killed."""

import http.client
import os
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import httpx
import pytest
from openai import OpenAI

from tests.bad_input import CASES, GOOD_TEXTS, SPEECH, Case
from tests.integration.conftest import MAX_IN_FLIGHT, Server
from tests.serve_app.test_ingress import send

SHORT = {"input": "hi", "response_format": "wav", "max_new_tokens": 10}
RECOVERY_S = 45


def say(server: Server, **fields: object) -> httpx.Response:
    with server.client() as client:
        return client.post(SPEECH, json=SHORT | fields)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input_is_refused_through_the_whole_server(server: Server, case: Case) -> None:
    logged = server.log.stat().st_size
    with server.client() as client:
        response = send(client, case)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (case.status, case.code), error
    assert "Traceback" not in response.text
    assert b"Traceback" not in server.log.read_bytes()[logged:]


@pytest.mark.parametrize("text", GOOD_TEXTS.values(), ids=GOOD_TEXTS)
def test_unusual_text_is_spoken(server: Server, text: str) -> None:
    assert say(server, input=text).status_code == 200


def test_a_body_of_100_mb_is_refused(server: Server) -> None:
    response = say(server, input="a" * 100_000_000)
    assert (response.status_code, response.json()["error"]["code"]) == (413, "body_too_large")
    assert say(server).status_code == 200


def test_http_1_0_is_answered(server: Server) -> None:
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as sock:
        sock.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert b"200 OK" in sock.recv(4096).partition(b"\r\n")[0]


def test_half_a_body_gets_a_408_and_harms_nobody(server: Server) -> None:
    address = urlsplit(server.url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=30)
    connection.putrequest("POST", SPEECH)
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", "1000")
    connection.endheaders()
    connection.send(b'{"input": "hel')
    assert say(server).status_code == 200
    assert connection.getresponse().status == 408
    connection.close()


def test_fifty_at_once_are_answered_or_told_to_come_back(server: Server) -> None:
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda seed: say(server, seed=seed), range(50)))
    statuses = [answer.status_code for answer in answers]
    assert statuses.count(200) + statuses.count(429) == 50
    assert statuses.count(200) >= MAX_IN_FLIGHT
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers if answer.status_code == 429)


def test_a_client_that_honours_retry_after_gets_all_through(server: Server) -> None:
    def speak(seed: int) -> int:
        body = {"max_new_tokens": 10, "seed": seed}
        answer = patient.audio.speech.create(
            model="step-audio-editx", voice="robot", input="hi", response_format="wav", extra_body=body
        )
        return len(answer.content)

    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=30) as patient, ThreadPoolExecutor(50) as pool:
        sizes = list(pool.map(speak, range(50)))
    assert len(sizes) == 50 and min(sizes) > 2 * 2880 * 2


@pytest.mark.parametrize("stage", ["Encoder", "LLM-base", "Vocoder"])
def test_a_killed_stage_costs_at_most_one_clear_error_and_comes_back(server: Server, stage: str) -> None:
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(say, server, max_new_tokens=600)
        time.sleep(0.3)
        for replica in server.replicas(stage):
            os.kill(int(str(replica["pid"])), signal.SIGKILL)
        killed = time.monotonic()
        response = running.result()
    if response.status_code != 200:
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    while httpx.get(f"{server.url}/readyz").status_code != 200 or say(server).status_code != 200:
        assert time.monotonic() - killed < RECOVERY_S, f"{stage} is not back"
        time.sleep(0.5)
