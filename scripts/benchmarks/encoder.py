"""The encoder's times: the published streaming loop, all blocks together, and clips through everything in batches."""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from deployments.encoder.audio import TOKEN_RATE, normalize_energy, prepare, resample_all, trim_silence
from deployments.encoder.blocks import Layers
from deployments.encoder.encoder import Encoder
from deployments.encoder.load import gpu_layers, lower_precision, set_precision
from deployments.types import Clip
from scripts.benchmarks.encoder_models import random_encoder, speech_like

Codes = list[Tensor]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The encoder's own arguments."""
    parser.add_argument("--seconds", type=float, nargs="+", help="lengths of clips; default: 3 10 30, on a CPU 10")
    parser.add_argument("--batches", type=int, nargs="+", help="clips in a batch; default: 1 8 32, on a CPU 1 4")
    parser.add_argument("--repeats", type=int, help="runs of which the median counts; default: 20, on a CPU 3")
    parser.add_argument("--compile", action="store_true", help="also time VQ02's layers under torch.compile")
    parser.add_argument("--profile", action="store_true", help="print where a GPU's time goes, part by part")


@torch.inference_mode()
def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Print the tables and return their figures, times in milliseconds."""
    device = torch.device("cuda", 0) if arguments.device == "cuda" else torch.device("cpu")
    set_precision("float32")
    bench = Bench(random_encoder(arguments.preset, device), device, arguments)
    print(f"encoder, {arguments.preset} sizes, {bench.machine}, random weights, float32")
    figures: dict[str, Any] = {"machine": bench.machine}
    if device.type == "cuda":
        figures["vq02_ways"] = bench.ways()
        bench.encoder.vq02.layers = gpu_layers(Layers(bench.encoder.vq02.encoder), device, True, True)
    figures["streaming"] = bench.streaming()
    figures["batches"] = bench.batches()
    figures["stages"] = bench.stages()
    if device.type == "cuda":
        if arguments.profile:
            bench.profile()
        figures["precisions"] = bench.precisions()
    return figures


class Bench:
    """An encoder, the clips' lengths and batches, and a clock that waits for the device."""

    def __init__(self, encoder: Encoder, device: torch.device, arguments: argparse.Namespace) -> None:
        on_gpu = device.type == "cuda"
        self.encoder, self.device, self.compile = encoder, device, arguments.compile
        self.seconds = arguments.seconds or ([3, 10, 30] if on_gpu else [10])
        self.sizes = arguments.batches or ([1, 8, 32] if on_gpu else [1, 4])
        self.repeats = arguments.repeats or (20 if on_gpu else 3)
        self.machine = torch.cuda.get_device_name(device) if on_gpu else f"{torch.get_num_threads()} CPU threads"

    def time(self, action: Callable[[], Any], repeats: int = 0) -> float:
        """Median milliseconds of an action, after one run that does not count."""
        action()
        times = []
        for _ in range(repeats or self.repeats):
            self.wait()
            start = time.perf_counter()
            action()
            self.wait()
            times.append((time.perf_counter() - start) * 1000)
        return statistics.median(times)

    def wait(self) -> None:
        """Until the device has done all it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def streaming(self) -> list[dict[str, Any]]:
        """VQ02 by the published way of feeding and by blocks, and whether their codes are equal."""
        rows = []
        vq02 = self.encoder.vq02
        print(f"\n{'VQ02, one clip':>20} {'streaming loop':>15} {'blocks':>10} {'ratio':>8}  codes")
        for seconds in self.seconds:
            speech = self.prepare(_clips(seconds, 1))
            vq02.mode = "reference"
            loop, expected = self.time(partial(vq02, speech), 1 if seconds > 3 else 3), vq02(speech)[0]
            vq02.mode = "blocks"
            blocks, codes = self.time(partial(vq02, speech)), vq02(speech)[0]
            equal = int((codes == expected).sum())
            row = {"seconds": seconds, "loop_ms": loop, "blocks_ms": blocks, "codes": len(codes), "equal": equal}
            share = f"{equal}/{len(codes)} equal"
            print(f"{seconds:>18g} s {loop:>12.1f} ms {blocks:>7.1f} ms {loop / blocks:>7.1f}x  {share}")
            rows.append(row)
        return rows

    def ways(self) -> list[dict[str, Any]]:
        """VQ02 on a GPU: torch's kernels or the fused one, launched one by one or as CUDA graphs, compiled."""
        plain = Layers(self.encoder.vq02.encoder)
        choices = {"plain": (False, False), "plain graphs": (False, True), "fused": (True, False)}
        choices |= {"fused graphs": (True, True)}
        ways: dict[str, Any] = {name: gpu_layers(plain, self.device, *choice) for name, choice in choices.items()}
        if self.compile:
            ways["compiled"] = torch.compile(plain, dynamic=True)
        print("\n" + f"{'VQ02':>20}" + "".join(f"{way:>14}" for way in ways))
        rows = []
        for seconds in self.seconds:
            for count in self.sizes:
                speech = self.prepare(_clips(seconds, count))
                row: dict[str, Any] = {"seconds": seconds, "clips": count}
                for way, layers in ways.items():
                    self.encoder.vq02.layers = layers
                    row[f"{way}_ms"] = self.time(partial(self.encoder.vq02, speech))
                print(f"{count:>14} x {seconds:g} s" + "".join(f"{row[f'{way}_ms']:>11.1f} ms" for way in ways))
                rows.append(row)
        return rows

    def batches(self) -> list[dict[str, Any]]:
        """Clips through everything: tokens, mel and speaker vector, from samples to arrays on the CPU."""
        print(f"\n{'all four outputs':>20} {'batch':>10} {'a clip':>10} {'audio/time':>11} {'peak memory':>12}")
        rows = []
        for seconds in self.seconds:
            for count in self.sizes:
                clips = _clips(seconds, count)
                self.reset_peak()
                took = self.time(partial(self.encoder.encode_batch, clips))
                row = {"seconds": seconds, "clips": count, "ms": took, "peak_gb": self.peak_gb()}
                speed = seconds * count / took * 1000
                memory = f"{row['peak_gb']:>9.2f} GB" if row["peak_gb"] else f"{'':>12}"
                print(f"{count:>14} x {seconds:g} s {took:>7.1f} ms {took / count:>7.2f} ms {speed:>10.0f}x {memory}")
                rows.append(row)
        return rows

    def stages(self) -> list[dict[str, Any]]:
        """Each part alone, one clip and a batch of the middle length."""
        seconds = self.seconds[len(self.seconds) // 2]
        print(f"\n{'each alone':>20} {'VQ02':>10} {'VQ06':>10} {'speaker':>10} {'mel':>10} {'preparing':>10}")
        rows = []
        for count in (self.sizes[0], self.sizes[-1]):
            parts = self.parts(_clips(seconds, count))
            row: dict[str, Any] = {"seconds": seconds, "clips": count}
            row |= {f"{name}_ms": self.time(part) for name, part in parts.items()}
            print(f"{count:>14} x {seconds:g} s" + "".join(f" {row[f'{name}_ms']:>7.1f} ms" for name in parts))
            rows.append(row)
        return rows

    def parts(self, clips: list[Clip]) -> dict[str, Callable[[], Any]]:
        """What encode_batch does, apart."""
        encoder, rates = self.encoder, [clip.sample_rate for clip in clips]
        signals = [torch.tensor(prepare(clip), device=self.device) for clip in clips]
        at16 = resample_all(signals, rates, TOKEN_RATE)
        speech = trim_silence([normalize_energy(signal) for signal in at16])
        return {
            "vq02": partial(encoder.vq02, speech),
            "vq06": partial(encoder.codes06, speech),
            "speaker": partial(encoder.speakers, at16),
            "mel": partial(encoder.mels, signals, rates),
            "preparing": partial(self.prepare, clips),
        }

    def prepare(self, clips: list[Clip]) -> list[Tensor]:
        """Clips as the tokenizers take them: 16 kHz, trimmed."""
        signals = [torch.tensor(prepare(clip), device=self.device) for clip in clips]
        at16 = resample_all(signals, [clip.sample_rate for clip in clips], TOKEN_RATE)
        return trim_silence([normalize_energy(signal) for signal in at16])

    def profile(self) -> None:
        """The kernels that take most of each part's time, for a batch of the middle length."""
        seconds, count = self.seconds[len(self.seconds) // 2], self.sizes[-1]
        for name, part in self.parts(_clips(seconds, count)).items():
            part()
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
                part()
                self.wait()
            events = sorted(profiler.key_averages(), key=lambda event: -event.self_device_time_total)
            total = sum(event.self_device_time_total for event in events) / 1000
            print(f"\n{name}, {count} x {seconds:g} s: {total:.1f} ms in kernels")
            for event in events[:12]:
                print(f"{event.self_device_time_total / 1000:>9.2f} ms {event.count:>6} x  {event.key[:90]}")

    def precisions(self) -> list[dict[str, Any]]:
        """Time of everything and share of equal codes when matrix products are less exact than float32."""
        seconds = self.seconds[len(self.seconds) // 2]
        clips = {count: _clips(seconds, count) for count in (1, self.sizes[-1])}
        exact = self.encoder.encode_batch(clips[self.sizes[-1]])
        print(
            f"\n{'precision':>12} {'1 clip':>10} {f'{self.sizes[-1]} clips':>10} {'VQ02 equal':>11} {'VQ06 equal':>11}"
        )
        rows = []
        for precision in ("float32", "tf32", "bf16"):
            set_precision(precision)
            lower_precision(self.encoder, precision)
            self.encoder.vq02.layers = gpu_layers(Layers(self.encoder.vq02.encoder), self.device, True, True)
            times = [self.time(partial(self.encoder.encode_batch, batch)) for batch in clips.values()]
            found = self.encoder.encode_batch(clips[self.sizes[-1]])
            shares = [
                _agreement([getattr(r, k) for r in exact], [getattr(r, k) for r in found]) for k in ("vq02", "vq06")
            ]
            rows.append({"precision": precision, "ms": times, "vq02_equal": shares[0], "vq06_equal": shares[1]})
            print(f"{precision:>12} {times[0]:>7.1f} ms {times[1]:>7.1f} ms {shares[0]:>11.2%} {shares[1]:>11.2%}")
        set_precision("float32")
        return rows

    def reset_peak(self) -> None:
        """Start to watch memory anew."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak_gb(self) -> float:
        """Most memory held since, GB; 0 on a CPU."""
        return torch.cuda.max_memory_allocated(self.device) / 1e9 if self.device.type == "cuda" else 0.0


def _clips(seconds: float, count: int) -> list[Clip]:
    return [speech_like(seconds, seed) for seed in range(count)]


def _agreement(expected: list[Any], found: list[Any]) -> float:
    equal = sum(int((a == b).sum()) for a, b in zip(expected, found, strict=True))
    return equal / sum(len(a) for a in expected)
