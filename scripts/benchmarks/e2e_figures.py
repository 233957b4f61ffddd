"""What is computed from an answer's chunks and headers, and how figures are printed. Pure: no clock, no network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from deployments.types import SAMPLE_RATE

Figures = dict[str, Any]
BYTES_PER_SECOND = 2 * SAMPLE_RATE  # pcm is s16le


@dataclass(frozen=True)
class Chunk:
    """Bytes of PCM that came, and when: seconds after the request was sent."""

    at: float
    size: int

    @property
    def seconds(self) -> float:
        """Of audio."""
        return self.size / BYTES_PER_SECOND


@dataclass(frozen=True)
class Answer:
    """One request as its sender saw it.

    chunks: none is empty; a whole file is one. stages: Server-Timing in milliseconds, empty for a stream.
    duration: seconds of audio. total: seconds from the first byte sent to the last received.
    """

    chunks: tuple[Chunk, ...]
    duration: float
    total: float
    stages: Mapping[str, float]

    @property
    def first(self) -> float:
        """Seconds until the first audio."""
        return self.chunks[0].at

    @property
    def rtf(self) -> float:
        """Seconds of work per second of audio."""
        return self.total / self.duration

    @property
    def underrun(self) -> float:
        """Seconds that a player stands still which starts with the first chunk."""
        late, played = 0.0, self.first
        for before, chunk in pairwise(self.chunks):
            played += before.seconds
            late = max(late, chunk.at - played)
        return late

    @property
    def largest_gap(self) -> float:
        """Seconds between one chunk and the next, at most."""
        return max((after.at - before.at for before, after in pairwise(self.chunks)), default=0.0)


def server_timing(header: str) -> dict[str, float]:
    """``encode;dur=1.5, llm;dur=20`` -> milliseconds by name."""
    stages = {}
    for entry in header.split(","):
        name, _, duration = entry.strip().partition(";dur=")
        if duration:
            stages[name] = float(duration)
    return stages


def median(values: Sequence[float]) -> float:
    """The 50th percentile."""
    return quantile(values, 0.5)


def quantile(values: Sequence[float], share: float) -> float:
    """The value that ``share`` of them do not exceed, interpolated."""
    return float(np.quantile(np.asarray(values, dtype=np.float64), share))


def stage_split(answers: Sequence[Answer]) -> dict[str, float]:
    """Median milliseconds of each stage; ``other`` is what the server spent outside them, ``http`` what came on top."""
    names = ("encode", "queue", "llm", "vocode", "total")
    split = {name: median([answer.stages[name] for answer in answers]) for name in names}
    inside = [sum(answer.stages[name] for name in names[:-1]) for answer in answers]
    others = [answer.stages["total"] - spent for answer, spent in zip(answers, inside, strict=True)]
    split["other"] = median(others)
    split["http"] = median([1000 * answer.total - answer.stages["total"] for answer in answers])
    return split


@dataclass(frozen=True)
class Row:
    """A line of the combined table: where the figure lies, its unit, and the target on one H200 by variant."""

    name: str
    path: tuple[str | int, ...]
    unit: str
    at_most: bool = True
    target: float | None = None
    target_int4: float | None = None

    def aim(self, variant: str) -> float | None:
        """What the figure should not exceed, or should reach."""
        return self.target_int4 if variant == "awq" and self.target_int4 is not None else self.target


SUMMARY = (
    Row("start to ready", ("ready_s",), "s", target=25),
    Row("first audio, one stream, p50", ("first_audio", "p50_ms"), "ms", target=120),
    Row("first audio, one stream, p95", ("first_audio", "p95_ms"), "ms"),
    Row("whole request, cold voice, RTF", ("whole", "cold", "rtf"), "", target=0.125, target_int4=0.085),
    Row("whole request, known voice, RTF", ("whole", "known", "rtf"), ""),
    Row("most streams at once: audio per second", ("streams", -1, "audio_per_s"), "s/s", False, 100),
    Row("most streams at once: first audio p95", ("streams", -1, "p95_ms"), "ms", target=500),
    Row("most streams at once: without underrun > 100 ms", ("streams", -1, "no_underrun"), "", False, 0.9),
    Row("whole requests at once, audio per second", ("throughput", "together"), "s/s", False),
    Row("whole requests at once against one at a time", ("throughput", "ratio"), "x", False),
    Row("Serve adds per hop, p50", ("overhead", "per_hop_ms"), "ms"),
)


def combined(variants: Mapping[str, Figures], aims: bool) -> str:
    """One table of what matters most, each figure beside its target if ``aims`` is set."""
    rows = []
    for variant, figures in variants.items():
        for row in SUMMARY:
            value = _find(figures, row.path)
            if value is not None:
                aim = row.aim(variant) if aims else None
                rows.append((variant, row.name, value, row.unit, *_judged(value, aim, row.at_most)))
    return table("All together", ("variant", "figure", "value", "unit", "target", ""), rows)


def _find(figures: Any, path: Sequence[str | int]) -> float | None:
    """The figure at a path; None where its group did not run or failed."""
    for key in path:
        try:
            figures = figures[key]
        except (KeyError, IndexError):
            return None
    return float(figures)


def _judged(value: float, aim: float | None, at_most: bool) -> tuple[str, str]:
    if aim is None:
        return "", ""
    met = value <= aim if at_most else value >= aim
    return f"{'<=' if at_most else '>='} {aim:g}", "met" if met else "not met"


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Lines of a table, the first column to the left, numbers with four digits that count."""
    cells = [[_cell(value) for value in row] for row in [columns, *rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(columns))]
    lines = [_line(row, widths) for row in cells]
    return "\n".join(["", title, lines[0], "-" * len(lines[0]), *lines[1:]])


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    others = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
    return "  ".join([row[0].ljust(widths[0]), *others])


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
