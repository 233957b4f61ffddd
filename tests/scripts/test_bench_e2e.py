"""What the application's benchmark computes from what it receives."""

from pathlib import Path

import numpy as np
import pytest

from scripts.benchmarks.e2e_client import write_voices
from scripts.benchmarks.e2e_figures import Answer, Chunk, combined, quantile, server_timing, stage_split, table
from serve_app.audio_format import ClipLimits
from serve_app.voices import Voices

SECOND = 48_000  # bytes


def streamed(*chunks: tuple[float, float]) -> Answer:
    """An answer out of (seconds until it came, seconds of audio)."""
    parts = tuple(Chunk(at, round(seconds * SECOND)) for at, seconds in chunks)
    return Answer(parts, sum(part.seconds for part in parts), parts[-1].at, {})


def test_a_stream_ahead_of_its_player_has_no_underrun() -> None:
    answer = streamed((0.1, 1.0), (1.0, 2.0), (3.1, 1.0))
    assert answer.underrun == 0 and answer.first == 0.1
    assert answer.largest_gap == pytest.approx(2.1)


def test_an_underrun_is_the_time_a_player_stood_still_in_all() -> None:
    assert streamed((0.1, 1.0), (1.3, 1.0), (2.6, 1.0)).underrun == pytest.approx(0.5)
    assert streamed((0.1, 1.0), (1.3, 5.0), (2.6, 1.0)).underrun == pytest.approx(0.2)


def test_one_chunk_has_neither_gap_nor_underrun() -> None:
    answer = streamed((0.5, 2.0))
    assert answer.underrun == answer.largest_gap == 0
    assert answer.rtf == 0.25


def test_server_timing_is_read_by_name() -> None:
    assert server_timing("encode;dur=1.5, queue;dur=0.0, total;dur=20") == {"encode": 1.5, "queue": 0.0, "total": 20.0}
    assert server_timing("") == {}


def test_what_no_stage_accounts_for_is_told_apart() -> None:
    stages = {"encode": 10.0, "queue": 5.0, "llm": 100.0, "vocode": 20.0, "total": 140.0}
    split = stage_split([Answer((Chunk(0.15, SECOND),), 1.0, 0.15, stages)])
    assert split["other"] == pytest.approx(5) and split["http"] == pytest.approx(10)


def test_quantiles_are_interpolated() -> None:
    values = list(np.random.default_rng(0).permutation(101))
    assert quantile(values, 0.95) == 95 and quantile([1.0, 2.0], 0.5) == 1.5


def test_a_table_lines_up() -> None:
    lines = table("Title", ("name", "ms"), [("a", 1234.56), ("longer", 1)]).splitlines()
    assert lines[1] == "Title"
    assert len({len(line) for line in lines[2:]}) == 1
    assert lines[-2].split() == ["a", "1235"]


def test_the_combined_table_judges_only_where_there_is_a_target() -> None:
    figures = {
        "ready_s": 30.0,
        "first_audio": {"error": "it broke"},
        "whole": {"cold": {"rtf": 0.1}, "known": {"rtf": 1}},
    }
    judged = combined({"base": figures, "awq": figures}, aims=True)
    assert "first audio" not in judged
    lines = {tuple(line.split()[:3]): line for line in judged.splitlines() if line}
    assert lines["base", "start", "to"].endswith("<= 25  not met")
    verdicts = [line.split()[-2:] for line in judged.splitlines() if "cold" in line]
    assert [" ".join(verdict) for verdict in verdicts] == ["0.125 met", "not met"]
    assert "met" not in combined({"base": figures}, aims=False)


def test_the_voices_can_be_loaded(tmp_path: Path) -> None:
    voices = Voices([write_voices(tmp_path / "voices", 1.0)], ClipLimits(0.5, 30))
    labels = voices.labels()
    assert len({voices.get(label.name).clip.samples.tobytes() for label in labels}) == 8
    assert all(label.duration == pytest.approx(1.0) for label in labels)
