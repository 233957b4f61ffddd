from pathlib import Path

import pytest

from deployments.errors import CheckpointError
from deployments.vocoder.sizes import read_sizes

CONFIG = Path(__file__).parent.parent / "goldens/pipeline/models/Step-Audio-EditX/CosyVoice-300M-25Hz/cosyvoice.yaml"


def test_sizes_of_the_small_checkpoint() -> None:
    flow, hift = read_sizes(CONFIG)
    assert (flow.conformer.hidden, flow.dit.depth, flow.embedding, flow.guidance) == (64, 3, 32, 0.7)
    assert (hift.frame, hift.channels, hift.dilations[2]) == (480, 32, (1, 3, 5))


def test_references_to_the_top_of_the_file_are_followed(tmp_path: Path) -> None:
    text = CONFIG.read_text().replace("sampling_rate: 24000", "sampling_rate: !ref <sample_rate>")
    (tmp_path / "cosyvoice.yaml").write_text(text)
    assert read_sizes(tmp_path / "cosyvoice.yaml")[1].sample_rate == 24000


def test_every_problem_is_named_at_once(tmp_path: Path) -> None:
    text = (
        CONFIG.read_text()
        .replace("depth: 3", "deepness: 3")
        .replace("normalize_before: True", "normalize_before: False")
    )
    (tmp_path / "cosyvoice.yaml").write_text(text)
    with pytest.raises(CheckpointError) as caught:
        read_sizes(tmp_path / "cosyvoice.yaml")
    assert [problem.split(": ", 1)[1].split(":")[0] for problem in caught.value.problems] == [
        "flow.encoder.normalize_before",
        "flow.decoder.estimator.depth",
    ]
