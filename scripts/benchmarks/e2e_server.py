"""The application under Ray Serve in this process's own cluster, one variant of the language model at a time."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml

from serve_app.config import AppArgs

ROOT = Path(__file__).parents[2]
APP = "editx"
START_S = 240.0
LOG_LINES = 30
GPU_SHARES = {"encoder": 0.2, "llm": 0.5, "vocoder": 0.25}


class NotReadyError(RuntimeError):
    """The application did not come up; the message holds what Serve and the replicas said."""


def make_checkpoint(preset: str, out: Path, variants: list[str], device: str) -> float:
    """Write a checkpoint in a process of its own, which takes its GPU memory with it; returns seconds."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "scripts.make_checkpoint", "--preset", preset, "--out", str(out)]
    command += ["--variants", ",".join(variants), "--device", device]
    subprocess.run(command, cwd=ROOT, check=True)
    return time.perf_counter() - started


def arguments(models: Path, variant: str, device: str, voices: Path) -> AppArgs:
    """The shipped configuration with one variant, one replica of each stage, and shares that fill one GPU."""
    name = "serve.gpu.yaml" if device == "cuda" else "serve.yaml"
    config = yaml.safe_load((ROOT / "configs" / name).read_text(encoding="utf-8"))
    args: dict[str, Any] = config["applications"][0]["args"]
    llm = args["llm"][variant]
    for stage, share in GPU_SHARES.items():
        block = llm if stage == "llm" else args[stage]
        block["num_gpus"] = share if device == "cuda" else 0
        block["autoscaling"] |= {"min_replicas": 1, "max_replicas": 1}
    args |= {"models": models, "device": device, "voices": voices, "llm": {variant: llm}}
    args |= {"variants": [variant], "default_variant": variant, "api_keys": []}
    return AppArgs.model_validate(args)


@dataclass
class Startup:
    """Seconds from the start of deploying until a stage has a replica, and until /readyz says so."""

    stages: dict[str, float] = field(default_factory=dict)
    ready: float = 0.0


@dataclass(frozen=True)
class Server:
    """A Serve instance on a free port of the loopback."""

    url: str
    cluster_s: float

    def deploy(self, args: AppArgs) -> Startup:
        """Deploy the application and wait until it is ready. Raises NotReadyError."""
        from ray import serve

        from serve_app.app import build

        started, startup = time.perf_counter(), Startup()
        target = serve.RunTarget(build(args), name=APP)
        serve.run_many([target], wait_for_applications_running=False)
        while time.perf_counter() - started < START_S:
            application = serve.status().applications[APP]
            for name, deployment in application.deployments.items():
                if deployment.status == "HEALTHY":
                    startup.stages.setdefault(name, time.perf_counter() - started)
            if application.status == "DEPLOY_FAILED":
                break
            if application.status == "RUNNING" and self._ready():
                startup.ready = time.perf_counter() - started
                return startup
            time.sleep(0.1)
        raise NotReadyError(f"{_what_is_wrong(application)}\n{replica_logs()}")

    def _ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz", timeout=10).status_code == 200
        except httpx.TransportError:
            return False

    def remove(self) -> None:
        """Take the application away and free its GPU."""
        from ray import serve

        serve.delete(APP)


@contextmanager
def running(device: str) -> Iterator[Server]:
    """Ray and Serve for as long as the context lasts."""
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": _python_path()}
    os.environ.pop("RAY_ADDRESS", None)
    import ray  # reads its environment when it is imported
    from ray import serve

    started, port = time.perf_counter(), _free_port()
    gpus = 1 if device == "cuda" else 0
    cpus = max(os.cpu_count() or 1, 8)
    ray.init(address="local", num_cpus=cpus, num_gpus=gpus, include_dashboard=False, log_to_driver=False)
    try:
        serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
        yield Server(f"http://127.0.0.1:{port}", time.perf_counter() - started)
        serve.shutdown()
    finally:
        ray.shutdown()


def replica_logs() -> str:
    """The ends of the replicas' logs, newest last."""
    folder = Path("/tmp/ray/session_latest/logs/serve")
    logs = sorted(folder.glob("replica_*.log"), key=lambda path: path.stat().st_mtime)
    return "\n".join(f"== {log.name}\n{_end(log)}" for log in logs)


def _end(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:])


def _what_is_wrong(application: Any) -> str:
    deployments = application.deployments.items()
    lines = [f"{name}: {each.status} {each.message}" for name, each in deployments if each.status != "HEALTHY"]
    return "\n".join([f"application: {application.status} {application.message}", *lines])


def _python_path() -> str:
    """Replicas import this project from where it lies, installed or not."""
    return os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
