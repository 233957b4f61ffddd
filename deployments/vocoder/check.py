"""Does a checkpoint folder hold what the vocoder needs? Reads names and shapes, no weights."""

from pathlib import Path

from deployments.checkpoint import Layout, Report, extras, mismatches, missing_files, pickle_shapes
from deployments.errors import CheckpointError
from deployments.vocoder.sizes import read_sizes
from deployments.vocoder.weights import build, expected_shapes, respell

CONFIG, FLOW, HIFT = "cosyvoice.yaml", "flow.pt", "hift.pt"


def check(layout: Layout) -> Report:
    """Every problem with cosyvoice.yaml, flow.pt and hift.pt; tensors that nothing needs become notes."""
    folder = layout.cosyvoice
    report = Report(problems=missing_files(folder / CONFIG, folder / FLOW, folder / HIFT))
    if not (folder / CONFIG).is_file():
        return report
    try:
        models = build(*read_sizes(folder / CONFIG))
    except CheckpointError as error:
        report.problems.extend(error.problems)
        return report
    for name, model in zip((FLOW, HIFT), models, strict=True):
        if (folder / name).is_file():
            _compare(folder / name, expected_shapes(model), report)
    return report


def _compare(path: Path, expected: dict[str, tuple[int, ...]], report: Report) -> None:
    try:
        found = {respell(name): shape for name, shape in pickle_shapes(path).items()}
    except CheckpointError as error:
        report.problems.extend(error.problems)
        return
    report.problems.extend(mismatches(path, expected, found))
    report.notes.extend(f"{path}: tensor {name} is not needed" for name in extras(expected, found))
