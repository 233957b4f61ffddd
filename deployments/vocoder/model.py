"""The vocoder as one object: audio codes and a reference in, samples out. Knows nothing of Ray.

Whole clips and streams' chunks come in lists and go through the models as padded batches, cut so that a batch's
working memory stays bounded; a batch gives what its members give alone.
"""

from dataclasses import dataclass, field

import numpy as np
import torch

from deployments.checkpoint import Layout
from deployments.errors import InvalidInputError
from deployments.types import Reference
from deployments.vocoder.batches import Budget
from deployments.vocoder.check import CONFIG, FLOW, HIFT
from deployments.vocoder.chunks import Chunk
from deployments.vocoder.clips import Clips
from deployments.vocoder.flow import FRAMES_PER_PAIR, Flow, Voice, align_mel
from deployments.vocoder.graphs import Graphs
from deployments.vocoder.hift import Hift
from deployments.vocoder.noise import Noise
from deployments.vocoder.pairs import to_pairs
from deployments.vocoder.render import Passage, Renderer
from deployments.vocoder.sizes import read_sizes
from deployments.vocoder.solver import STEPS, Solver
from deployments.vocoder.stream import Stream
from deployments.vocoder.streaming import Streamer
from deployments.vocoder.tokens import TokenEncoder
from deployments.vocoder.weights import build
from deployments.vocoder.weights import load as load_weights


@dataclass(frozen=True)
class Utterance:
    """A whole clip to synthesise: audio codes (n,), 0..5119, in groups of five."""

    codes: np.ndarray
    reference: Reference
    seed: int


@dataclass(frozen=True)
class Settings:
    """How the models are run.

    dtype: of the flow's weights and activations; hift_dtype: of HiFT's between its source and its spectrum; all else is
    float32. budget: sizes of batches.
    conformer_tokens: how many of its past tokens (25 a second, the prompt's included) a stream's conformer attends
    to; None, as published, for all of them. graphs: whether to use CUDA graphs where there is a GPU.
    """

    dtype: torch.dtype = torch.float32
    hift_dtype: torch.dtype = torch.float32
    graphs: bool = True
    budget: Budget = field(default_factory=Budget)
    conformer_tokens: int | None = None


def load(layout: Layout, device: torch.device, settings: Settings | None = None) -> "Synthesizer":
    """The published vocoder of a models folder. Raises CheckpointError if it cannot be used."""
    folder = layout.cosyvoice
    flow, hift = build(*read_sizes(folder / CONFIG))
    load_weights(flow, folder / FLOW, device)
    load_weights(hift, folder / HIFT, device)
    return Synthesizer(flow, hift, settings or Settings())


class Synthesizer:
    """Flow and HiFT on their device. Not safe to be used by two threads at a time."""

    def __init__(self, flow: Flow, hift: Hift, settings: Settings, graphs: Graphs | None = None) -> None:
        self.flow, self.hift, self.settings = flow, hift, settings
        self.device = flow.encoder_proj.weight.device
        self.graphs = graphs or Graphs(self.device, self._scratch(), wanted=settings.graphs)
        self.solver = Solver(flow, settings.dtype, self.graphs)
        self.renderer = Renderer(hift, self.graphs, settings.budget.render, settings.hift_dtype)
        self.encoder = TokenEncoder(flow, self.graphs, settings.budget, settings.conformer_tokens)
        self.clips = Clips(flow, self.encoder, self.solver, settings.budget)
        self.streamer = Streamer(flow, self.encoder, self.solver, self.renderer, settings.budget)

    def _scratch(self) -> dict[str, int]:
        """Bytes of what streams in one batch remember, step by step and in the conformer."""
        sizes, dtype, budget = self.flow.sizes.dit, self.settings.dtype, self.settings.budget
        conformer = self.flow.sizes.conformer
        frame = (Stream.size(1, sizes, dtype) - Stream.size(0, sizes, dtype)) // STEPS
        layer = 2 * conformer.hidden * dtype.itemsize * budget.recall
        tokens, frames = conformer.blocks * layer, conformer.up_blocks * conformer.upsample * layer
        return {"memory": budget.remember * frame, "tokens": tokens, "frames": frames}

    def synthesize(self, codes: np.ndarray, reference: Reference, seed: int) -> np.ndarray:
        """One whole clip: codes (n,) -> float32 samples (2880 * ceil(n / 5),) at 24 kHz.

        The same codes, reference and seed give the same samples, bit for bit. Raises InvalidInputError for codes
        that cannot be synthesised.
        """
        return self.synthesize_batch([Utterance(codes, reference, seed)])[0]

    @torch.inference_mode()
    def synthesize_batch(self, utterances: list[Utterance]) -> list[np.ndarray]:
        """Whole clips of any lengths, each as ``synthesize`` gives it alone, up to rounding."""
        noises = [Noise(utterance.seed) for utterance in utterances]
        mels = self._mels(utterances, noises)
        samples = self.renderer.clips([Passage(mel, noise) for mel, noise in zip(mels, noises, strict=True)])
        return [part.cpu().numpy() for part in samples]

    def mels(self, utterances: list[Utterance]) -> list[torch.Tensor]:
        """Only the mel spectrograms (frames, 80) of whole clips."""
        return self._mels(utterances, [Noise(utterance.seed) for utterance in utterances])

    def _mels(self, utterances: list[Utterance], noises: list[Noise]) -> list[torch.Tensor]:
        voices = [self.voice(utterance.reference) for utterance in utterances]
        pairs = [to_pairs(utterance.codes).to(self.device) for utterance in utterances]
        lengths = [FRAMES_PER_PAIR * (len(p) + len(v.pairs)) for p, v in zip(pairs, voices, strict=True)]
        bands = self.flow.sizes.mel
        starts = [noise.flow(length, bands) for noise, length in zip(noises, lengths, strict=True)]
        return self.clips.mels(pairs, voices, starts)

    def stream(self, reference: Reference, seed: int) -> Stream:
        """A stream that has seen nothing yet."""
        return Stream.create(self.voice(reference), seed, self.flow.sizes.dit, self.settings.dtype)

    @torch.inference_mode()
    def open(self, streams: list[Stream], codes: list[np.ndarray]) -> None:
        """Streamer.open: let streams remember their prompts."""
        self.streamer.open(streams, codes)

    @torch.inference_mode()
    def advance(self, streams: list[Stream], chunks: list[Chunk]) -> list[np.ndarray]:
        """Streamer.advance: the next samples of each stream."""
        return self.streamer.advance(streams, chunks)

    def voice(self, reference: Reference) -> Voice:
        """A reference on the device, its mel stretched to its codes."""
        codes = reference.codes
        if codes.size == 0:
            raise InvalidInputError("the reference is too short to hold a voice", None, "audio_too_short")
        pairs = to_pairs(codes)
        mel = align_mel(torch.tensor(reference.mel), FRAMES_PER_PAIR * len(pairs))
        speaker = torch.tensor(reference.speaker)
        return Voice(pairs.to(self.device), mel.to(self.device), speaker.to(self.device))
