"""The encoder's benchmark runs, compares codes and says everything as one object."""

import json

import pytest

from scripts import bench


def test_the_last_line_holds_every_figure(capsys: pytest.CaptureFixture[str]) -> None:
    bench.main(["encoder", "--preset", "tiny", "--seconds", "0.5", "--batches", "1", "2", "--repeats", "1", "--json"])
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["stage"] == "encoder" and figures["preset"] == "tiny"
    assert all(row["equal"] == row["codes"] > 0 for row in figures["streaming"])
    assert [row["clips"] for row in figures["batches"]] == [1, 2]
    assert all(row["ms"] > 0 for row in figures["batches"])
