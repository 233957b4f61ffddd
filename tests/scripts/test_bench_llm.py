"""The language model's benchmark runs every variant and says everything as one object."""

import json

import pytest
import torch

from scripts import bench


def test_the_last_line_holds_every_figure(capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    bench.main(["llm", "--preset", "tiny", "--batches", "1", "3", "--prompt", "20", "--steps", "3", "--json"])
    torch.set_num_threads(threads)
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [(row["variant"], row["batch"]) for row in figures["decode"]] == [
        (variant, batch) for variant in ("base", "awq", "bnb") for batch in (1, 3)
    ]
    assert all(row["ms"] > 0 and row["prefill_ms"] > 0 for row in figures["decode"])
    assert figures["transformers"]["ms"] > 0
