"""Short digests: of a clip's content, and of the files that decide what it is encoded to."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from deployments.types import Clip

DIGITS = 40
SAMPLE = 4096
SAMPLES = 256


def of_clip(clip: Clip, weights: str) -> str:
    """Digest of a clip's samples, shape and rate together with that of the weights."""
    digest = hashlib.sha256()
    digest.update(f"{weights}/{clip.samples.shape}/{clip.samples.dtype}/{clip.sample_rate}/".encode())
    digest.update(memoryview(_contiguous(clip)))
    return digest.hexdigest()[:DIGITS]


def of_files(paths: Iterable[Path], settings: str) -> str:
    """Digest of settings and of files: their sizes and 1 MiB of each, evenly spread, so that gigabytes cost nothing."""
    digest = hashlib.sha256(settings.encode())
    for path in paths:
        size = path.stat().st_size
        digest.update(f"{path.name}/{size}/".encode())
        with path.open("rb") as file:
            for number in range(SAMPLES):
                file.seek(max(0, size - SAMPLE) * number // (SAMPLES - 1))
                digest.update(file.read(SAMPLE))
    return digest.hexdigest()[:DIGITS]


def _contiguous(clip: Clip) -> bytes | memoryview:
    samples = clip.samples
    return samples.data if samples.flags.c_contiguous else samples.tobytes()
