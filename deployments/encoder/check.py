"""What is wrong with the encoder's part of a checkpoint, all of it at once and before anything starts."""

from collections.abc import Callable
from pathlib import Path

import onnx

from deployments.checkpoint import Layout, Report, load_onnx, missing_files
from deployments.encoder import paraformer
from deployments.encoder.frontend import read_cmvn
from deployments.encoder.options import EncoderOptions
from deployments.encoder.s3_weights import check_s3, open_graph
from deployments.encoder.vq02 import read_centroids
from deployments.errors import CheckpointError

SPEAKER_SIZE = 192
FBANK_SIZE = 80


def check(layout: Layout, options: EncoderOptions | None = None) -> Report:
    """Compare every file, name and shape with what the encoder needs, under the options that name other files."""
    options = options or EncoderOptions()
    folder, codebook = options.paraformer or layout.paraformer, options.codebook or layout.codebook
    speaker = layout.cosyvoice / "campplus.onnx"
    config, weights, cmvn = folder / "config.yaml", folder / "model.pt", folder / "am.mvn"
    files = (config, weights, cmvn, codebook, layout.s3, speaker)
    problems, notes = missing_files(*files), list[str]()

    def look(examine: Callable[[], list[str]], *needs: Path) -> None:
        """Examine files that are there; what their reader raises is what is wrong with them."""
        if all(path.is_file() for path in needs):
            try:
                problems.extend(examine())
            except CheckpointError as error:
                problems.extend(error.problems)

    look(lambda: _found(paraformer.read_sizes(config)), config)
    look(lambda: _found(read_cmvn(cmvn)), cmvn)
    look(lambda: paraformer.check(folder, notes), config, weights)
    look(lambda: _found(read_centroids(codebook, paraformer.read_sizes(config)["output_size"])), codebook)
    look(lambda: check_s3(open_graph(layout.s3)), layout.s3)
    look(lambda: check_speaker(speaker), speaker)
    return Report(list(dict.fromkeys(problems)), notes)


def check_speaker(path: Path) -> list[str]:
    """The speaker graph takes (batch, frames, 80) and gives (batch, 192)."""
    graph = load_onnx(path).graph
    held = {tensor.name for tensor in graph.initializer}
    inputs = [_sizes(item) for item in graph.input if item.name not in held]
    outputs = [_sizes(item) for item in graph.output]
    problems = []
    if len(inputs) != 1 or len(inputs[0]) != 3 or inputs[0][2] not in (FBANK_SIZE, 0):
        problems.append(f"{path}: takes {inputs}, expected one input of [batch, frames, {FBANK_SIZE}]")
    if not outputs or not outputs[0] or outputs[0][-1] not in (SPEAKER_SIZE, 0):
        problems.append(f"{path}: gives {outputs}, expected [batch, {SPEAKER_SIZE}]")
    return problems


def _sizes(item: onnx.ValueInfoProto) -> list[int]:
    """Sizes of a graph's input or output; 0 where they are open."""
    return [size.dim_value for size in item.type.tensor_type.shape.dim]


def _found(_content: object) -> list[str]:
    """Nothing is wrong with content that could be read."""
    return []
