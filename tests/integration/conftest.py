"""One real application for the whole run: ``serve run`` on the shipped configuration and the tiny checkpoint."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import yaml

ROOT = Path(__file__).parents[2]
START_S = 120
MAX_IN_FLIGHT = 16


@dataclass(frozen=True)
class Server:
    """Base addresses of the running application and of its Ray dashboard; what it prints, its replicas' logs too."""

    url: str
    dashboard: str
    log: Path

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=120)

    def replicas(self, deployment: str) -> list[dict[str, object]]:
        """The dashboard's view of a deployment's replicas."""
        applications = httpx.get(f"{self.dashboard}/api/serve/applications/").json()["applications"]
        return applications["editx"]["deployments"][deployment]["replicas"]


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def write_config(folder: Path, port: int) -> Path:
    """The shipped configuration on a port of its own, with limits that a test can reach."""
    config = yaml.safe_load((ROOT / "configs" / "serve.yaml").read_text())
    config["http_options"]["port"] = port
    args = config["applications"][0]["args"]
    args["voices_dir"] = str(folder / "voices")
    args["limits"] = {"max_concurrent_requests": MAX_IN_FLIGHT, "body_timeout_s": 3}
    path = folder / "serve.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture(scope="session")
def server(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("serve")
    port = free_port()
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    environment |= {"EDITX_MODELS": str(tiny_models), "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    command = [str(Path(sys.executable).parent / "serve"), "run", str(write_config(folder, port))]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield Server(*wait_until_ready(process, f"http://127.0.0.1:{port}", folder / "log"), folder / "log")
    finally:
        os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> tuple[str, str]:
    """The addresses of application and dashboard, once /readyz says 200."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        assert process.poll() is None, f"serve run ended:\n{log.read_text()}"
        try:
            if httpx.get(f"{url}/readyz").status_code == 200:
                break
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    else:
        raise AssertionError(f"not ready within {START_S} s:\n{log.read_text()[-5000:]}")
    found = re.search(r"dashboard at .*?(127\.0\.0\.1:\d+)", log.read_text())
    assert found, "serve run did not say where the dashboard is"
    return url, f"http://{found[1]}"
