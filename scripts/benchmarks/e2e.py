"""The application as its users meet it: under Ray Serve, through HTTP, with random weights of a preset's sizes.

Each variant of the language model is deployed alone, one replica per stage. A group of figures that fails says why,
and the others go on.
"""

import argparse
import asyncio
import os
import tempfile
import traceback
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from scripts.benchmarks.e2e_client import Client, connect, write_voices
from scripts.benchmarks.e2e_figures import Figures, combined, table
from scripts.benchmarks.e2e_groups import Plan, first_audio, overhead, streams, throughput, whole
from scripts.benchmarks.e2e_in_process import in_process
from scripts.benchmarks.e2e_server import NotReadyError, Server, Startup, make_checkpoint, running
from scripts.benchmarks.e2e_server import arguments as app_arguments
from serve_app.config import VARIANTS, AppArgs

Group = Callable[[Client, Plan], Awaitable[Any]]
GROUPS: dict[str, Group] = {
    "first_audio": first_audio,
    "whole": whole,
    "streams": streams,
    "throughput": throughput,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The application's own arguments."""
    parser.add_argument("--models", type=Path, help="a checkpoint folder; default: random weights, made and removed")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=["base"], help="one after the other")
    parser.add_argument("--groups", nargs="+", choices=(*GROUPS, "overhead"), help="default: all; overhead on a CPU")
    parser.add_argument("--levels", type=int, nargs="+", help="streams at once; default: 1 2 4 8 16 32, tiny 1 2 4 8")
    parser.add_argument("--repeats", type=int, help="requests one at a time; default: 20, tiny 6")
    parser.add_argument("--tokens", type=int, help="of a whole request; default: 250, 6 s of speech; tiny 100")
    parser.add_argument("--scratch", type=Path, help="where to make the checkpoint; default: the temporary folder")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Print the tables and return their figures by variant, times in milliseconds unless they say seconds."""
    machine = _machine(arguments.device)
    print(f"e2e, {arguments.preset} sizes, {machine}, random weights, one replica of each stage", flush=True)
    figures: dict[str, Any] = {"machine": machine}
    with tempfile.TemporaryDirectory(dir=arguments.scratch, prefix="editx-bench-") as scratch:
        models = arguments.models
        if models is None:
            models = Path(scratch) / "models"
            seconds = make_checkpoint(arguments.preset, models, arguments.variants, arguments.device)
            print(f"checkpoint made in {seconds:.1f} s", flush=True)
        clip_s = 3.0 if arguments.preset == "tiny" else 10.0
        voices = write_voices(Path(scratch) / "voices", clip_s)
        with running(arguments.device) as server:
            print(f"Ray and Serve up in {server.cluster_s:.1f} s", flush=True)
            for variant in arguments.variants:
                args = app_arguments(models, variant, arguments.device, voices)
                figures[variant] = _variant(server, args, clip_s, arguments)
    aims = arguments.preset == "full" and arguments.device == "cuda"
    print(combined({variant: figures[variant] for variant in arguments.variants}, aims), flush=True)
    return figures


def _variant(server: Server, args: AppArgs, clip_s: float, arguments: argparse.Namespace) -> Figures:
    """Deploy, measure every group, take away."""
    try:
        startup = server.deploy(args)
    except NotReadyError as error:
        print(f"\n{args.default_variant}: not ready\n{error}", flush=True)
        return {"error": str(error)}
    print(_startup(args.default_variant, startup), flush=True)
    figures: Figures = {"ready_s": startup.ready, "stages_ready_s": startup.stages}
    figures |= asyncio.run(_measure(server, args, clip_s, arguments))
    server.remove()
    return figures


def _startup(variant: str, startup: Startup) -> str:
    rows = [*startup.stages.items(), ("/readyz", startup.ready)]
    return table(f"{variant}: from deploying to ready", ("", "s"), rows)


async def _measure(server: Server, args: AppArgs, clip_s: float, arguments: argparse.Namespace) -> Figures:
    plan, variant = _plan(arguments), args.default_variant
    figures: Figures = {}
    groups = dict(GROUPS)
    if arguments.device == "cpu":
        groups["overhead"] = _overhead(args)
    client = connect(server.url, clip_s)
    async with client.http:
        with _attempt(figures, "warm"):
            await client.warm(plan.tokens)
        for name in arguments.groups or groups:
            with _attempt(figures, name):
                print(f"\n[{variant}]", end="")
                figures[name] = await groups[name](client, plan)
    return figures


@contextmanager
def _attempt(figures: Figures, name: str) -> Iterator[None]:
    """Whatever goes wrong in one group is printed and kept as its figure; the next one still runs."""
    try:
        yield
    except Exception as error:
        print(f"{name} failed:\n{traceback.format_exc()}", flush=True)
        figures[name] = {"error": repr(error)}


def _overhead(args: AppArgs) -> Group:
    assert args.voices is not None
    voices = args.voices

    async def group(client: Client, plan: Plan) -> Figures:
        return await overhead(client, plan, in_process(args, args.default_variant, voices))

    return group


def _plan(arguments: argparse.Namespace) -> Plan:
    full = arguments.preset == "full"
    return Plan(
        repeats=arguments.repeats or (20 if full else 6),
        tokens=arguments.tokens or (250 if full else 100),
        stream_tokens=420 if full else 100,
        levels=tuple(arguments.levels or ((1, 2, 4, 8, 16, 32) if full else (1, 2, 4, 8))),
        rounds=3 if full else 1,
        concurrent=8,
    )


def _machine(device: str) -> str:
    return torch.cuda.get_device_name(0) if device == "cuda" else f"{os.cpu_count()} CPU cores"
