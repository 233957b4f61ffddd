"""The state of one streamed synthesis: everything a chunk needs of what came before it.

A stream remembers, at each Euler step, the keys and values of all prompt frames and of the newest 96 frames made
since; the conformer's keys and values; and HiFT's last eight frames with their source and samples. Nothing of it is
shared, so dropping the object frees the stream.
"""

from dataclasses import dataclass, field
from dataclasses import replace as changed

import torch

from deployments.vocoder.conformer import ConformerMemory
from deployments.vocoder.flow import FRAMES_PER_PAIR, Voice
from deployments.vocoder.fused import CONTEXT
from deployments.vocoder.graphs import Graphs
from deployments.vocoder.memory import Memory
from deployments.vocoder.noise import Noise
from deployments.vocoder.render import Ending
from deployments.vocoder.sizes import DiTSizes
from deployments.vocoder.solver import STEPS

WINDOW = 96
_BOTH = 2  # with conditions and without


@dataclass
class Stream:
    """One stream. ``frames`` counts what the estimator remembers, 0 before the stream is opened.

    attention: (steps, depth, 2, 2, heads, prompt + 96, head_dim): keys and values, with conditions and without.
    convolution: (steps, depth, 2, 2, 2, hidden).
    """

    voice: Voice
    noise: Noise
    attention: torch.Tensor
    convolution: torch.Tensor
    frames: int = 0
    conformer: ConformerMemory | None = None
    ending: Ending | None = None
    _drawn: torch.Tensor = field(default_factory=lambda: torch.empty(0))

    @classmethod
    def create(cls, voice: Voice, seed: int, sizes: DiTSizes, dtype: torch.dtype) -> "Stream":
        """A stream that has seen nothing yet."""
        leading = (STEPS, sizes.depth, 2, _BOTH)
        attention = (*leading, sizes.heads, len(voice.mel) + WINDOW, sizes.head_dim)
        convolution = (*leading, CONTEXT, sizes.hidden)
        device = voice.mel.device
        return cls(
            voice,
            Noise(seed),
            torch.empty(attention, dtype=dtype, device=device),
            torch.zeros(convolution, dtype=dtype, device=device),
        )

    @staticmethod
    def size(prompt_frames: int, sizes: DiTSizes, dtype: torch.dtype) -> int:
        """Bytes that a stream's estimator memory takes; the rest is small."""
        frame = STEPS * sizes.depth * 2 * _BOTH * sizes.heads * sizes.head_dim * dtype.itemsize
        return frame * (prompt_frames + WINDOW)

    @property
    def prompt(self) -> int:
        """Frames of the reference's mel."""
        return len(self.voice.mel)

    def noise_for(self, frames: int) -> torch.Tensor:
        """Where the solver starts for the next frames, (frames, bands) on the CPU.

        As published, it is read from where the estimator's memory ends: once that is full, every chunk starts from
        the same noise.
        """
        missing = self.frames + frames - len(self._drawn)
        if missing > 0:
            drawn = self.noise.flow(missing, self.voice.mel.shape[1])
            self._drawn = torch.cat([self._drawn, drawn]) if len(self._drawn) else drawn
        return self._drawn[self.frames : self.frames + frames]

    def remember_tokens(self, added: ConformerMemory, row: int, tokens: int, limit: int | None) -> None:
        """Append a row of a batch to the conformer's memory; keep the newest ``limit`` tokens if there is one."""
        own = ConformerMemory(
            added.lookahead[row : row + 1],
            added.upsample[row : row + 1],
            added.tokens[:, :, row : row + 1, :, :tokens],
            added.frames[:, :, row : row + 1, :, : FRAMES_PER_PAIR * tokens],
        )
        old = self.conformer
        if old is None:
            own = changed(own, tokens=own.tokens.clone(), frames=own.frames.clone())
        else:
            joined = torch.cat([old.tokens, own.tokens], dim=4), torch.cat([old.frames, own.frames], dim=4)
            own = changed(own, tokens=joined[0], frames=joined[1])
        if limit is not None:
            own = changed(
                own, tokens=own.tokens[..., -limit:, :], frames=own.frames[..., -FRAMES_PER_PAIR * limit :, :]
            )
        self.conformer = changed(own, lookahead=own.lookahead.clone(), upsample=own.upsample.clone())

    def remember_frames(self, step: int, added: torch.Tensor) -> None:
        """Store a step's new keys and values, (depth, 2, 2, heads, frames, head_dim).

        They go in front of the window's older ones and push out what lies beyond its 96 frames: of an older chunk
        the first frames are kept, as published.
        """
        own, prompt, frames = self.attention[step], self.prompt, added.shape[4]
        if self.frames == 0:
            own[..., :prompt, :] = added
            return
        added = added[..., -WINDOW:, :]
        frames = added.shape[4]
        kept = min(self.frames - prompt, WINDOW - frames)
        if kept > 0:
            own[..., prompt + frames : prompt + frames + kept, :] = own[..., prompt : prompt + kept, :].clone()
        own[..., prompt : prompt + frames, :] = added

    def advance(self, frames: int) -> None:
        """Count new frames, after all steps stored them."""
        self.frames = min(self.frames + frames, self.prompt + WINDOW) if self.frames else frames


class StreamRecall:
    """The memories of several streams as one batch; a Recall of the solver.

    Rows are padded to ``before`` remembered and ``longest`` new frames, and the batch to ``rows``.
    """

    def __init__(
        self, streams: list[Stream], frames: list[int], rows: int, longest: int, before: int, graphs: Graphs
    ) -> None:
        self._streams, self._frames, self._rows, self._before = streams, frames, rows, before
        first = streams[0].attention[0]
        depth, heads, width = first.shape[0], first.shape[3], first.shape[5]
        shape = (depth, 2, _BOTH, rows, heads, before + longest, width)
        self._attention = _buffer(graphs, "memory", shape, first)

    def read(self, step: int) -> Memory:
        """All streams' memory before a step, with room for the new frames."""
        parts = [stream.convolution[step] for stream in self._streams]
        parts += [torch.zeros_like(parts[0])] * (self._rows - len(parts))
        for row, stream in enumerate(self._streams):
            self._attention[:, :, :, row, :, : stream.frames] = stream.attention[step][..., : stream.frames, :]
        convolution = torch.stack(parts, dim=3).flatten(2, 3)
        return Memory(self._attention.flatten(2, 3), convolution, torch.empty_like(convolution))

    def write(self, step: int, memory: Memory) -> None:
        """Give every stream its part of what is new."""
        attention = memory.attention[..., self._before :, :].unflatten(2, (_BOTH, self._rows))
        convolution = memory.ends.unflatten(2, (_BOTH, self._rows))
        for row, (stream, frames) in enumerate(zip(self._streams, self._frames, strict=True)):
            stream.remember_frames(step, attention[:, :, :, row, :, :frames])
            stream.convolution[step] = convolution[:, :, :, row]


def _buffer(graphs: Graphs, name: str, shape: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
    scratch = graphs.scratch(name, shape, like.dtype)
    return like.new_zeros(shape) if scratch is None else scratch


def gather_tokens(streams: list[Stream], rows: int, longest: int, graphs: Graphs) -> ConformerMemory | None:
    """The conformer's memories of several streams as one batch, padded in front and to a number of rows.

    None when they have none yet.
    """
    memories = [stream.conformer for stream in streams if stream.conformer is not None]
    if not memories:
        return None
    assert len(memories) == len(streams)
    lengths = [memory.tokens.shape[4] for memory in memories] + [0] * (rows - len(memories))
    return ConformerMemory(
        _joined([memory.lookahead for memory in memories], rows),
        _joined([memory.upsample for memory in memories], rows),
        _right_aligned("tokens", [memory.tokens for memory in memories], rows, longest, graphs),
        _right_aligned("frames", [memory.frames for memory in memories], rows, FRAMES_PER_PAIR * longest, graphs),
        torch.tensor(lengths, device=memories[0].tokens.device),
    )


def _joined(parts: list[torch.Tensor], rows: int) -> torch.Tensor:
    """(1, n, width) each -> (rows, n, width)"""
    return torch.cat([*parts, parts[0].new_zeros(rows - len(parts), *parts[0].shape[1:])])


def _right_aligned(name: str, parts: list[torch.Tensor], rows: int, longest: int, graphs: Graphs) -> torch.Tensor:
    """(blocks, 2, 1, heads, n, width) of different n -> (blocks, 2, rows, heads, longest, width)"""
    blocks, both, _, heads, _, width = parts[0].shape
    joined = _buffer(graphs, name, (blocks, both, rows, heads, longest, width), parts[0])
    for row, part in enumerate(parts):
        joined[:, :, row, :, longest - part.shape[4] :] = part[:, :, 0]
    return joined
