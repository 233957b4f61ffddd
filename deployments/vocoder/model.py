"""The vocoder as one object: audio codes and a reference in, samples out. Knows nothing of Ray."""

from dataclasses import dataclass

import numpy as np
import torch

from deployments.checkpoint import Layout
from deployments.errors import InvalidInputError
from deployments.types import Reference
from deployments.vocoder.check import CONFIG, FLOW, HIFT
from deployments.vocoder.flow import FRAMES_PER_PAIR, Flow, Voice, align_mel
from deployments.vocoder.hift import Hift
from deployments.vocoder.noise import Noise
from deployments.vocoder.pairs import to_pairs
from deployments.vocoder.sizes import read_sizes
from deployments.vocoder.weights import build
from deployments.vocoder.weights import load as load_weights


def load(layout: Layout, device: torch.device) -> "Synthesizer":
    """The published vocoder of a models folder. Raises CheckpointError if it cannot be used."""
    folder = layout.cosyvoice
    flow, hift = build(*read_sizes(folder / CONFIG))
    return Synthesizer(load_weights(flow, folder / FLOW, device), load_weights(hift, folder / HIFT, device), device)


@dataclass(frozen=True)
class Synthesizer:
    """Flow and HiFT on a device."""

    flow: Flow
    hift: Hift
    device: torch.device

    @torch.inference_mode()
    def synthesize(self, codes: np.ndarray, reference: Reference, seed: int) -> np.ndarray:
        """A whole clip: codes (n,) in groups of five -> float32 samples (2880 * ceil(n / 5),) at 24 kHz.

        The same codes, reference and seed give the same samples, bit for bit. Raises InvalidInputError for codes
        that cannot be synthesised.
        """
        noise = Noise(seed)
        pairs, voice = to_pairs(codes).to(self.device), self.voice(reference)
        frames = FRAMES_PER_PAIR * (len(voice.pairs) + len(pairs))
        mel = self.flow(pairs, voice, noise.flow(frames, self.flow.sizes.mel).to(self.device))
        mel = mel.T[None]  # (1, bands, frames)
        source = self.hift.excite(mel, noise.source(mel.shape[2] * self.hift.sizes.frame)[None].to(self.device))
        return self.hift(mel, source)[0].cpu().numpy()

    def voice(self, reference: Reference) -> Voice:
        """A reference on the device, its mel stretched to its codes."""
        codes = reference.codes
        if codes.size == 0:
            raise InvalidInputError("the reference is too short to hold a voice", None, "audio_too_short")
        pairs = to_pairs(codes)
        mel = align_mel(torch.tensor(reference.mel), FRAMES_PER_PAIR * len(pairs))
        speaker = torch.tensor(reference.speaker)
        return Voice(pairs.to(self.device), mel.to(self.device), speaker.to(self.device))
