"""How far two encoders agree: ``python -m scripts.encoder_agreement A B clip.wav ...``.

A and B are models folders in the published layout; options after a colon change how one runs, e.g.
``models:precision=bf16`` or ``models:paraformer=/lighter,codebook=/lighter/centroids.npy``. Prints the share of equal
tokens for each codebook and the time that each encoder takes.
"""

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import torch

from deployments.checkpoint import Layout
from deployments.encoder.encoder import Encoder
from deployments.encoder.load import load, set_precision
from deployments.encoder.options import EncoderOptions
from deployments.types import Clip, Reference


@dataclass(frozen=True)
class Run:
    """An encoder's results and the seconds they took."""

    references: list[Reference]
    seconds: float


def parse(text: str) -> tuple[Layout, EncoderOptions]:
    """``folder[:option=value,...]``."""
    folder, _, rest = text.partition(":")
    options = dict(pair.split("=", 1) for pair in rest.split(",") if pair)
    return Layout(Path(folder)), EncoderOptions.model_validate(options)


def read_clip(path: Path) -> Clip:
    """Any audio file that PyAV reads, as (channels, n)."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        resampler = av.AudioResampler(format="fltp", layout=stream.layout, rate=stream.rate)
        frames = [part for frame in container.decode(stream) for part in resampler.resample(frame)]
        return Clip(np.concatenate([frame.to_ndarray() for frame in frames], axis=1), stream.rate)


def run(encoder: Encoder, precision: str, clips: list[Clip]) -> Run:
    """Every clip alone, after one run that does not count."""
    set_precision(precision)
    encoder.encode_batch(clips[:1])
    start = time.perf_counter()
    references = [encoder.encode_batch([clip])[0] for clip in clips]
    return Run(references, time.perf_counter() - start)


def agreement(first: list[Reference], second: list[Reference], codebook: str) -> float:
    """Share of equal tokens; where one encoder gives more of them, the rest count as different."""
    equal = total = 0
    for a, b in zip(first, second, strict=True):
        left, right = getattr(a, codebook), getattr(b, codebook)
        common = min(len(left), len(right))
        equal += int((left[:common] == right[:common]).sum())
        total += max(len(left), len(right))
    return equal / total


def main(argv: list[str]) -> None:
    """Load both, encode every clip with both, compare."""
    parser = argparse.ArgumentParser(prog="scripts.encoder_agreement", description=__doc__)
    parser.add_argument("encoders", nargs=2, metavar="ENCODER", help="models folder[:option=value,...]")
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args(argv)
    clips = [read_clip(path) for path in arguments.clips]
    runs = []
    for text in arguments.encoders:
        layout, options = parse(text)
        runs.append(run(load(layout, torch.device(arguments.device), options), options.precision, clips))
    seconds = sum(clip.duration for clip in clips)
    for name, codebook in (("VQ02", "vq02"), ("VQ06", "vq06"), ("interleaved", "codes")):
        print(f"{name:>12}: {agreement(runs[0].references, runs[1].references, codebook):.2%} equal")
    for text, outcome in zip(arguments.encoders, runs, strict=True):
        print(
            f"{outcome.seconds / len(clips) * 1000:>9.1f} ms a clip, {seconds / outcome.seconds:.0f}x real time: {text}"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
