"""Chunks of streams, in batches: the same models as for whole clips, with what each stream remembers."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from deployments.vocoder.batches import (
    Budget,
    batch_rows,
    chunk_frames,
    clip_frames,
    remembered,
    remembered_frames,
    split,
)
from deployments.vocoder.chunks import Chunk
from deployments.vocoder.flow import FRAMES_PER_PAIR, Flow
from deployments.vocoder.memory import Rows
from deployments.vocoder.pairs import to_pairs
from deployments.vocoder.render import Passage, Renderer
from deployments.vocoder.rows import stack
from deployments.vocoder.solver import Solver
from deployments.vocoder.stream import Stream, StreamRecall
from deployments.vocoder.tokens import TokenEncoder


@dataclass(frozen=True)
class _Turn:
    """What one stream brings to a batch: pairs (n, 2), look-ahead included unless last, and mel that is given."""

    stream: Stream
    pairs: torch.Tensor
    last: bool
    given: torch.Tensor | None = None


@dataclass(frozen=True)
class _Shape:
    """A batch's padded shape, and whether it is run as a graph."""

    rows: int
    frames: int
    before: int
    graphed: bool


class Streamer:
    """Runs flow, solver and HiFT over chunks."""

    def __init__(self, flow: Flow, encoder: TokenEncoder, solver: Solver, renderer: Renderer, budget: Budget) -> None:
        self._flow, self._encoder, self._solver = flow, encoder, solver
        self._renderer, self._budget = renderer, budget
        self._lookahead = flow.sizes.conformer.lookahead

    def open(self, streams: list[Stream], codes: list[np.ndarray]) -> None:
        """Let streams remember their prompts. codes: the first group (5,) of what each is going to say."""
        turns = [
            _Turn(stream, torch.cat([stream.voice.pairs, self._pairs(first)]), False, stream.voice.mel)
            for stream, first in zip(streams, codes, strict=True)
        ]
        for turn in turns:  # one at a time: on a GPU as graphs, which takes less than a batch that cannot be one
            self._batch([turn])

    def advance(self, streams: list[Stream], chunks: list[Chunk]) -> list[np.ndarray]:
        """The next samples (n,) of each stream; Renderer.chunk says how many."""
        mels = self.mels(streams, chunks)
        passages = [Passage(mel, stream.noise, stream.ending) for mel, stream in zip(mels, streams, strict=True)]
        results = self._renderer.chunk(passages, [chunk.last for chunk in chunks])
        for stream, (_, ending) in zip(streams, results, strict=True):
            stream.ending = ending
        return [samples.cpu().numpy() for samples, _ in results]

    def mels(self, streams: list[Stream], chunks: list[Chunk]) -> list[torch.Tensor]:
        """The next mel (2 * n, bands) of each stream."""
        turns = [
            _Turn(stream, self._pairs(chunk.codes), chunk.last) for stream, chunk in zip(streams, chunks, strict=True)
        ]
        results: dict[int, torch.Tensor] = {}
        for group in split([stream.frames for stream in streams], remembered, self._budget.remember):
            results |= dict(zip(group, self._batch([turns[index] for index in group]), strict=True))
        return [results[index] for index in range(len(turns))]

    def _pairs(self, codes: np.ndarray) -> torch.Tensor:
        return to_pairs(codes).to(self._flow.encoder_proj.weight.device)

    def _batch(self, turns: list[_Turn]) -> list[torch.Tensor]:
        """One step of all streams through flow and solver -> mel (2 * n, bands) each"""
        tokens = [len(turn.pairs) - (0 if turn.last else self._lookahead) for turn in turns]
        frames = [FRAMES_PER_PAIR * count for count in tokens]
        streams = [turn.stream for turn in turns]
        seen = [stream.frames for stream in streams]
        shape = self._shape(frames, seen)
        mu = self._encoder.chunk(streams, [turn.pairs for turn in turns], tokens)
        given = [mu[0].new_zeros(0, mu[0].shape[1]) if turn.given is None else turn.given for turn in turns]
        noise = [stream.noise_for(count) for stream, count in zip(streams, frames, strict=True)]
        speaker = self._flow.speaker(torch.stack([stream.voice.speaker for stream in streams]))
        mel = self._solver.solve(
            stack(noise, shape.frames, shape.rows).to(speaker.device),
            stack(mu, shape.frames, shape.rows),
            F.pad(speaker, (0, 0, 0, shape.rows - len(turns))),
            stack(given, shape.frames, shape.rows),
            self._padding(shape, frames, seen),
            StreamRecall(streams, frames, shape.rows, shape.frames, shape.before, self._solver.graphs),
            shape.graphed,
        )
        for stream, count in zip(streams, frames, strict=True):
            stream.advance(count)
        return [part[:count] for part, count in zip(mel, frames, strict=False)]

    def _shape(self, frames: list[int], seen: list[int]) -> _Shape:
        """The padded shape of a batch: few different ones on a GPU, no padding beyond the longest elsewhere."""
        opening = max(seen) == 0
        rows, before = batch_rows(len(frames)), remembered_frames(max(seen))
        longest = clip_frames(max(frames)) if opening else chunk_frames(max(frames))
        if not self._solver.graphs.enabled or rows * (before + longest) > self._budget.remember:
            return _Shape(len(frames), max(frames), max(seen), False)
        return _Shape(rows, longest, before, True)

    def _padding(self, shape: _Shape, frames: list[int], seen: list[int]) -> Rows | None:
        missing = shape.rows - len(frames)
        if not missing and min(frames) == shape.frames and min(seen) == shape.before:
            return None
        lengths, remembered = frames + [shape.frames] * missing, seen + [0] * missing
        return self._solver.rows(lengths, shape.frames, remembered, shape.before)
