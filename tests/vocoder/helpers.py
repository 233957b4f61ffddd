"""Synthesizers of the small checkpoint, and utterances and streams for them."""

from collections.abc import Sequence

import numpy as np
import torch

from deployments.checkpoint import Layout
from deployments.types import AUDIO_CODES, VQ02_CODES, Reference
from deployments.vocoder.chunks import Chunk, Chunks
from deployments.vocoder.graphs import Function, Graphs
from deployments.vocoder.model import Settings, Synthesizer, Utterance
from deployments.vocoder.sizes import read_sizes
from deployments.vocoder.weights import build, load

CPU = torch.device("cpu")


class Padded(Graphs):
    """Asks for the shapes of CUDA graphs, and runs functions as they are."""

    def __init__(self, scratch_bytes: int) -> None:
        super().__init__(CPU)
        self.enabled = True
        self.shapes: set[tuple[object, ...]] = set()
        self._scratch = {name: torch.zeros(scratch_bytes, dtype=torch.uint8) for name in ("memory", "tokens", "frames")}

    def run(self, function: Function, *inputs: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
        self.shapes.add((function.__qualname__, *(None if x is None else tuple(x.shape) for x in inputs)))
        return function(*inputs)


def small(layout: Layout, settings: Settings, graphs: Graphs | None = None) -> Synthesizer:
    """The small checkpoint's models, run as ``settings`` say."""
    flow, hift = build(*read_sizes(layout.cosyvoice / "cosyvoice.yaml"))
    load(flow, layout.cosyvoice / "flow.pt", CPU)
    load(hift, layout.cosyvoice / "hift.pt", CPU)
    return Synthesizer(flow, hift, settings, graphs)


def utterance(reference: Reference, groups: int, seed: int, prompt_groups: int = 20) -> Utterance:
    random = np.random.default_rng(seed)
    first = random.integers(0, VQ02_CODES, (groups, 2))
    second = random.integers(VQ02_CODES, AUDIO_CODES, (groups, 3))
    shorter = Reference(
        reference.vq02[: 2 * prompt_groups],
        reference.vq06[: 3 * prompt_groups],
        reference.mel[: 6 * prompt_groups],
        reference.speaker,
        0.12 * prompt_groups,
    )
    return Utterance(np.concatenate([first, second], axis=1).reshape(-1), shorter, seed)


def streamed(synthesizer: Synthesizer, utterances: Sequence[Utterance]) -> list[np.ndarray]:
    """All utterances as streams that advance together as long as they last."""
    streams = [synthesizer.stream(each.reference, each.seed) for each in utterances]
    chunks = [iter(cut(each.codes)) for each in utterances]
    synthesizer.open(streams, [each.codes[:5] for each in utterances])
    parts: list[list[np.ndarray]] = [[] for _ in utterances]
    while turns := [(row, chunk) for row, pending in enumerate(chunks) if (chunk := next(pending, None))]:
        samples = synthesizer.advance([streams[row] for row, _ in turns], [chunk for _, chunk in turns])
        for (row, _), part in zip(turns, samples, strict=True):
            parts[row].append(part)
    return [np.concatenate(own) for own in parts]


def cut(codes: np.ndarray) -> list[Chunk]:
    chunks = Chunks()
    chunks.feed(codes)
    chunks.end()
    return list(iter(chunks.next, None))
