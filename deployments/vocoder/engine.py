"""The models behind a scheduler: what the deployment awaits. Whole clips and streams share one worker thread."""

import time
from dataclasses import dataclass

import numpy as np

from deployments.errors import InvalidInputError
from deployments.types import Reference
from deployments.vocoder.admission import Admission
from deployments.vocoder.chunks import SCHEDULE, Chunk, Chunks
from deployments.vocoder.model import Synthesizer, Utterance
from deployments.vocoder.pairs import PAIRS_PER_GROUP, to_pairs
from deployments.vocoder.scheduler import Done, Lane, Scheduler
from deployments.vocoder.stream import Stream

FRAMES_PER_GROUP = 2 * PAIRS_PER_GROUP
_PATIENCE_S = 1.0  # a whole clip yields to streams' chunks that are due within this time
_CHUNK_CLASSES = (30, 45, 85)  # codes; chunks of one class are padded to the longest of them


@dataclass(frozen=True)
class Limits:
    """How much at a time.

    batch: whole clips in one batch. batch_beside_streams: the same while streams are running, which a long batch
    would keep waiting. busy_streams: from this many streams on, chunks get longer where enough codes are waiting.
    stream_bytes: memory for all streams' states.
    """

    batch: int = 16
    batch_beside_streams: int = 2
    busy_streams: int = 9
    stream_bytes: int = 8 << 30
    schedule: tuple[int, ...] = SCHEDULE


class Engine:
    """Awaits for everything that a Synthesizer can do. Create it on any thread; use it from event loops."""

    def __init__(self, synthesizer: Synthesizer, limits: Limits) -> None:
        self._synthesizer, self._limits = synthesizer, limits
        self.admission = Admission(limits.stream_bytes)
        self.scheduler = Scheduler(
            {
                "clip": Lane(synthesizer.synthesize_batch, self._clips_at_once),
                "open": Lane(self._open, lambda: 1),
                "chunk": Lane(self._advance, lambda: limits.batch, repeatable=False),
            }
        )

    @property
    def busy(self) -> bool:
        """Whether so many streams run that longer chunks pay."""
        return self.admission.active >= self._limits.busy_streams

    def chunks(self) -> Chunks:
        """An empty stream of codes, cut as configured."""
        return Chunks(self._limits.schedule)

    def stream_bytes(self, reference: Reference) -> int:
        """What a stream in this voice will take."""
        frames = FRAMES_PER_GROUP * (len(reference.codes) // 5)
        return Stream.size(frames, self._synthesizer.flow.sizes.dit, self._synthesizer.settings.dtype)

    async def synthesize(self, codes: np.ndarray, reference: Reference, seed: int) -> Done:
        """A whole clip's samples. Raises InvalidInputError for codes that cannot be synthesised."""
        _check(codes, reference)
        return await self.scheduler.run("clip", Utterance(codes, reference, seed), time.monotonic() + _PATIENCE_S)

    async def open(self, reference: Reference, seed: int, codes: np.ndarray) -> Stream:
        """A stream that remembers its prompt. codes: the first group (5,) of what it is going to say."""
        _check(codes, reference)
        done = await self.scheduler.run("open", Utterance(codes, reference, seed), time.monotonic())
        return done.value

    async def advance(self, stream: Stream, chunk: Chunk, deadline: float) -> np.ndarray:
        """A stream's next samples (n,), wanted at ``deadline`` (time.monotonic)."""
        _check(chunk.codes, None)
        size = sum(len(chunk.codes) > longest for longest in _CHUNK_CLASSES)
        return (await self.scheduler.run(("chunk", size), (stream, chunk), deadline)).value

    def _clips_at_once(self) -> int:
        """One on a CPU, where a batch takes as long as its clips one after the other, and all of them wait for it."""
        limits = self._limits
        if self._synthesizer.device.type == "cpu":
            return 1
        return limits.batch_beside_streams if self.admission.active else limits.batch

    def _open(self, utterances: list[Utterance]) -> list[Stream]:
        streams = [self._synthesizer.stream(each.reference, each.seed) for each in utterances]
        self._synthesizer.open(streams, [each.codes for each in utterances])
        return streams

    def _advance(self, turns: list[tuple[Stream, Chunk]]) -> list[np.ndarray]:
        return self._synthesizer.advance([stream for stream, _ in turns], [chunk for _, chunk in turns])


def _check(codes: np.ndarray, reference: Reference | None) -> None:
    """Refuse bad input before it can spoil a batch."""
    to_pairs(codes)
    if reference is not None and reference.codes.size == 0:
        raise InvalidInputError("the reference is too short to hold a voice", None, "audio_too_short")
