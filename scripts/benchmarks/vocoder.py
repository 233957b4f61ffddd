"""Times, memory and errors of the vocoder on random weights.

Every figure comes with its baseline from the same run: whole clips one at a time, and streams in the published chunk
schedule, both eager in float32. (The published code itself does more work than this baseline: it computes the
time-dependent modulation anew in every step.)
"""

import argparse
import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch

from deployments.types import GROUP_SIZE
from deployments.vocoder import precision
from deployments.vocoder.chunks import SCHEDULE, Chunk
from deployments.vocoder.model import Synthesizer, Utterance
from deployments.vocoder.noise import Noise
from deployments.vocoder.pairs import to_pairs
from deployments.vocoder.render import Passage
from deployments.vocoder.stream import Stream
from deployments.vocoder.warmup import warm_up
from scripts.benchmarks.vocoder_models import Plan, make, make_chunks, make_utterance
from scripts.checkpoints.presets import PRESETS


@dataclass
class Table:
    """What was measured, in order: name -> (value, unit)."""

    rows: dict[str, tuple[float, str]] = field(default_factory=dict)

    def add(self, name: str, value: float, unit: str) -> None:
        self.rows[name] = (value, unit)
        print(f"  {name:<64} {value:>12.4g} {unit}", flush=True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The vocoder's own arguments."""
    parser.add_argument("--precisions", nargs="+", choices=precision.PRECISIONS, help="default: all on a GPU")
    parser.add_argument("--brief", action="store_true", help="no baseline, no agreement, no long stream")
    parser.add_argument("--profile", action="store_true", help="print where a GPU's time goes, for the last precision")


def run(arguments: argparse.Namespace) -> dict[str, float]:
    """Print the figures as they come, and return them."""
    table = Table()
    plan = _plan(arguments)
    synthesizer = measure(plan, table)
    if arguments.profile:
        precision.apply(plan.precisions[-1])
        profile(plan, synthesizer)
    return {name: value for name, (value, _) in table.rows.items()}


def _plan(arguments: argparse.Namespace) -> Plan:
    cuda = arguments.device == "cuda"
    return Plan(
        preset=PRESETS.get(arguments.preset, PRESETS["tiny"]),
        device=torch.device(arguments.device),
        repeats=10 if cuda else 2,
        prompt_s=9.96 if cuda else 3.0,
        clips_s=(6.0, 9.96, 24.96) if cuda else (3.0,),
        batch=(16, 9.96) if cuda else (4, 3.0),
        stream_s=12.48 if cuda else 4.8,
        streams=(1, 8, 32) if cuda else (1, 4),
        precisions=tuple(arguments.precisions or (precision.PRECISIONS if cuda else ("float32",))),
        brief=arguments.brief,
    )


def measure(plan: Plan, table: Table) -> Synthesizer:
    """Everything, into the table. Gives back what ran with the last precision."""
    torch.set_num_threads(1 if plan.device.type == "cpu" else torch.get_num_threads())
    exact = baseline(plan, table) if not plan.brief else None
    for chosen in plan.precisions:
        print(f"{chosen}: batched{', graphs' if plan.device.type == 'cuda' else ''}")
        synthesizer = make(plan, chosen, graphs=True)
        if exact:
            error(chosen, exact[:2], mel_of(synthesizer, plan), table)
            wave_error(plan, chosen, exact[2], synthesizer, table)
        with _timer(plan) as taken:
            warm_up(synthesizer, SCHEDULE)
        table.add(f"{chosen}: warm-up", taken(), "s")
        memory(plan, synthesizer, chosen, table)
        whole_clips(plan, synthesizer, chosen, table)
        repeats(plan, synthesizer, chosen, table)
        batch(plan, synthesizer, chosen, table)
        stages(plan, synthesizer, chosen, table)
        streams(plan, synthesizer, chosen, plan.streams, table)
    if not plan.brief:
        batch_agrees(plan, synthesizer, table)
        bounded_conformer(plan, table)
    return synthesizer


def baseline(plan: Plan, table: Table) -> tuple[np.ndarray, ...]:
    """Times to compare with, and the mels and samples that errors are measured against."""
    print(f"baseline: float32, eager, one at a time ({plan.device})")
    synthesizer = make(plan, "float32", graphs=False)
    exact = *mel_of(synthesizer, plan), heard(synthesizer, plan)
    whole_clips(plan, synthesizer, "baseline", table)
    streams(plan, synthesizer, "baseline", (1,), table)
    return exact


def whole_clips(plan: Plan, synthesizer: Synthesizer, name: str, table: Table) -> None:
    """One clip at a time."""
    for seconds in plan.clips_s:
        taken = timed(plan, partial(synthesizer.synthesize_batch, [make_utterance(plan, seconds, 0)]))
        table.add(f"{name}: {seconds:g} s of audio, alone", 1000 * taken, "ms")


@torch.inference_mode()
def stages(plan: Plan, synthesizer: Synthesizer, name: str, table: Table) -> None:
    """The parts of the time, for one clip and for a batch."""
    count, seconds = plan.batch
    for rows in (1, count):
        utterances = [make_utterance(plan, seconds, seed) for seed in range(rows)]
        tokens = [to_pairs(np.concatenate([each.reference.codes, each.codes])).to(plan.device) for each in utterances]
        passages = [Passage(mel, Noise(0)) for mel in synthesizer.mels(utterances)]
        work: dict[str, Callable[[], object]] = {
            "encoder": partial(synthesizer.encoder.clips, tokens),
            "encoder and solver": partial(synthesizer.mels, utterances),
            "HiFT": partial(synthesizer.renderer.clips, passages),
        }
        for part, function in work.items():
            taken = 1000 * timed(plan, function) / rows
            table.add(f"{name}: {seconds:g} s of audio, batch of {rows}, per clip: {part}", taken, "ms")


def profile(plan: Plan, synthesizer: Synthesizer) -> None:
    """Kernels of one clip and of one stream, by time."""
    count, seconds = plan.batch
    utterances = [make_utterance(plan, seconds, seed) for seed in range(count)]
    for work in (
        partial(synthesizer.synthesize_batch, utterances[:1]),
        partial(synthesizer.synthesize_batch, utterances),
        partial(_stream_run, plan, synthesizer, 1),
    ):
        work()
        with torch.profiler.profile() as recorded:
            work()
        print(recorded.key_averages().table(sort_by="self_device_time_total", row_limit=30, max_name_column_width=70))


def repeats(plan: Plan, synthesizer: Synthesizer, name: str, table: Table) -> None:
    """Whether the same seed gives the same samples, clip and stream."""
    clip = make_utterance(plan, plan.clips_s[0], 5)
    samples = [synthesizer.synthesize_batch([clip])[0].tobytes() for _ in range(3)]
    mels = [mel_of(synthesizer, plan)[1].tobytes() for _ in range(2)]
    table.add(f"{name}: different results of one seed", len(set(samples)) + len(set(mels)) - 2, "")


def batch(plan: Plan, synthesizer: Synthesizer, name: str, table: Table) -> None:
    """A batch of clips."""
    count, seconds = plan.batch
    utterances = [make_utterance(plan, seconds, seed) for seed in range(count)]
    taken = timed(plan, partial(synthesizer.synthesize_batch, utterances))
    table.add(f"{name}: {seconds:g} s of audio, per clip in a batch of {count}", 1000 * taken / count, "ms")


def streams(plan: Plan, synthesizer: Synthesizer, name: str, counts: tuple[int, ...], table: Table) -> None:
    """Streams that advance together: how long each kind of chunk takes."""
    for count in counts:
        runs = [_stream_run(plan, synthesizer, count) for _ in range(1 + min(3, plan.repeats))][1:]
        best = [min(steps) for steps in zip(*runs, strict=True)]
        label = f"{name}: {count} stream{'s' if count > 1 else ''} of {plan.stream_s:g} s"
        table.add(f"{label}, opening", 1000 * best[0], "ms")
        table.add(f"{label}, first chunk", 1000 * best[1], "ms")
        if len(best) > 4:
            table.add(f"{label}, a chunk of 1.92 s", 1000 * best[4], "ms")
        table.add(f"{label}, all", 1000 * sum(best), "ms")
        table.add(f"{label}, audio per second", count * plan.stream_s / sum(best), "s/s")


def _stream_run(plan: Plan, synthesizer: Synthesizer, count: int) -> list[float]:
    utterances = [make_utterance(plan, plan.stream_s, seed) for seed in range(count)]
    running = [synthesizer.stream(utterance.reference, utterance.seed) for utterance in utterances]
    chunks = [make_chunks(utterance.codes) for utterance in utterances]
    with _timer(plan) as opening:
        synthesizer.open(running, [utterance.codes[:GROUP_SIZE] for utterance in utterances])
    steps = [opening()]
    for step in zip(*chunks, strict=True):
        with _timer(plan) as advancing:
            synthesizer.advance(running, list(step))
        steps.append(advancing())
    return steps


def memory(plan: Plan, synthesizer: Synthesizer, name: str, table: Table) -> None:
    """Of this process on the GPU: weights, graphs, and what one clip and one stream take."""
    if plan.device.type != "cuda":
        return
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    table.add(f"{name}: memory held when idle", torch.cuda.memory_reserved() / 2**30, "GiB")
    synthesizer.synthesize_batch([make_utterance(plan, plan.batch[1], 0)])
    table.add(f"{name}: memory held at most, one clip", torch.cuda.max_memory_reserved() / 2**30, "GiB")
    _stream_run(plan, synthesizer, 1)
    table.add(f"{name}: memory held at most, one clip and a stream", torch.cuda.max_memory_reserved() / 2**30, "GiB")


def mel_of(synthesizer: Synthesizer, plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    """Mel of a whole clip and of a stream, for comparisons."""
    utterance = make_utterance(plan, plan.clips_s[0], 0)
    mel = _whole_mel(synthesizer, utterance)
    stream = synthesizer.stream(utterance.reference, utterance.seed)
    synthesizer.open([stream], [utterance.codes[:GROUP_SIZE]])
    return mel, np.concatenate([_stream_mel(synthesizer, stream, chunk) for chunk in make_chunks(utterance.codes)])


@torch.inference_mode()
def _whole_mel(synthesizer: Synthesizer, utterance: Utterance) -> np.ndarray:
    return synthesizer.mels([utterance])[0].cpu().numpy()


@torch.inference_mode()
def _stream_mel(synthesizer: Synthesizer, stream: Stream, chunk: Chunk) -> np.ndarray:
    return synthesizer.streamer.mels([stream], [chunk])[0].cpu().numpy()


def wave_error(plan: Plan, name: str, exact: np.ndarray, synthesizer: Synthesizer, table: Table) -> None:
    """How far the samples are from the baseline's, given the same mel: as a signal-to-noise ratio."""
    samples = heard(synthesizer, plan)
    ratio = 10 * np.log10((exact**2).sum() / max(((samples - exact) ** 2).sum(), 1e-20))
    table.add(f"{name}: samples of the same mel and source, signal to error", float(ratio), "dB")


@torch.inference_mode()
def heard(synthesizer: Synthesizer, plan: Plan) -> np.ndarray:
    """Samples of a mel and a source that depend on no model: errors of pitch would only shift phases."""
    random = np.random.default_rng(7)
    mel = torch.from_numpy(random.normal(-5, 2, (1, 80, 300)).astype(np.float32)).to(plan.device)
    source = torch.from_numpy(random.normal(0, 0.05, (1, 300 * 480)).astype(np.float32)).to(plan.device)
    return synthesizer.hift(mel, source)[0].cpu().numpy()


def error(name: str, exact: tuple[np.ndarray, ...], found: tuple[np.ndarray, ...], table: Table) -> None:
    """Mel error against the baseline; the mel's own spread beside it."""
    for kind, wanted, mel in zip(("whole", "streamed"), exact, found, strict=True):
        assert np.isfinite(mel).all(), f"{name}: {kind} mel is not finite"
        difference = np.abs(mel - wanted)
        table.add(f"{name}: {kind} mel, largest error", float(difference.max()), "ln")
        table.add(f"{name}: {kind} mel, mean error", float(difference.mean()), "ln")
    table.add(f"{name}: mel, standard deviation", float(exact[0].std()), "ln")


def batch_agrees(plan: Plan, synthesizer: Synthesizer, table: Table) -> None:
    """Mel of clips of different lengths in one batch against each alone."""
    utterances = [make_utterance(plan, seconds, 3) for seconds in (1.2, plan.clips_s[0], 2.4)]
    with torch.inference_mode():
        together = [mel.cpu() for mel in synthesizer.mels(utterances)]
        alone = [synthesizer.mels([utterance])[0].cpu() for utterance in utterances]
    worst = max(float((a - b).abs().max()) for a, b in zip(together, alone, strict=True))
    table.add(f"{plan.precisions[-1]}: batch against single, largest mel error", worst, "ln")


def bounded_conformer(plan: Plan, table: Table) -> None:
    """What bounding the conformer's cache changes and saves, on a long stream."""
    seconds = 6 * plan.stream_s
    mels, times = [], []
    for limit in (None, 500, 250):
        synthesizer = make(plan, "float32", graphs=True, conformer_tokens=limit)
        utterance = make_utterance(plan, seconds, 0)
        stream = synthesizer.stream(utterance.reference, 0)
        synthesizer.open([stream], [utterance.codes[:GROUP_SIZE]])
        chunks, parts = make_chunks(utterance.codes), []
        for chunk in chunks[:-1]:
            with _timer(plan) as step:
                parts.append(_stream_mel(synthesizer, stream, chunk))
        mels.append(np.concatenate(parts))
        times.append(step())
        name = "whole" if limit is None else f"{limit} tokens"
        table.add(f"conformer's cache {name}: chunk at {seconds:.0f} s", 1000 * times[-1], "ms")
        if limit is not None:
            difference = np.abs(mels[-1] - mels[0])
            table.add(f"conformer's cache {name}: largest mel difference", float(difference.max()), "ln")
            table.add(f"conformer's cache {name}: mean mel difference", float(difference.mean()), "ln")


def timed(plan: Plan, work: Callable[[], object]) -> float:
    """Median seconds of a call, after two to warm up."""
    times = []
    for number in range(plan.repeats + 2):
        with _timer(plan) as taken:
            work()
        if number >= 2:
            times.append(taken())
    return float(np.median(times))


@contextmanager
def _timer(plan: Plan) -> Iterator[Callable[[], float]]:
    _wait(plan)
    start, end = time.perf_counter(), 0.0
    yield lambda: end - start
    _wait(plan)
    end = time.perf_counter()


def _wait(plan: Plan) -> None:
    if plan.device.type == "cuda":
        torch.cuda.synchronize()
