"""A reference clip -> its tokens, mel and speaker vector, for many clips at once.

Knows nothing of Ray: the deployment beside it batches requests and calls ``encode_outcomes``.
"""

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from deployments.encoder.audio import TOKEN_RATE, normalize_energy, prepare, resample_all, trim_silence
from deployments.encoder.features import KaldiFbank, MelSpectrogram, WhisperMel
from deployments.encoder.lanes import Lanes
from deployments.encoder.s3 import pieces
from deployments.encoder.vq02 import Vq02
from deployments.errors import EditXError, StageError
from deployments.types import SAMPLE_RATE, Clip, Reference

logger = logging.getLogger(__name__)
T = TypeVar("T")
Outcome = Reference | EditXError
CPU_GROUP_S = 8.0  # more audio at once falls out of a core's cache and takes longer per clip
Network = Callable[[list[Tensor]], list[Tensor]]


@dataclass(frozen=True)
class Prepared:
    """Mono samples (n,) after the peak rule, and the rate and duration in seconds of the clip that they come from."""

    samples: np.ndarray
    sample_rate: int
    duration: float


class Encoder:
    """The encoder's networks and features.

    Args:
        vq02: 16 kHz signals -> VQ02 codes.
        s3: log-mels -> VQ06 codes.
        speaker: filter banks without their mean -> speaker vectors.
        device: of everything but VQ06. s3_device: VQ06's; default: the same.
    """

    def __init__(
        self, vq02: Vq02, s3: Network, speaker: Network, device: torch.device, s3_device: torch.device | None = None
    ) -> None:
        self.device = device
        self.s3_device = s3_device or device
        self.vq02, self.s3, self.speaker = vq02.to(device), s3, speaker
        self.mel = MelSpectrogram().to(device)
        self.whisper = WhisperMel().to(self.s3_device)
        self.fbank = KaldiFbank("povey").to(device)
        self.lanes = Lanes(device)
        self.group_s = CPU_GROUP_S if device.type == "cpu" else math.inf

    def encode_outcomes(self, clips: list[Clip]) -> list[Outcome]:
        """A result or an error for every clip: one that cannot be encoded takes no other with it."""
        prepared = [_attempt(partial(_prepared, clip)) for clip in clips]
        encoded = iter(self._encode_good([item for item in prepared if isinstance(item, Prepared)]))
        return [item if isinstance(item, EditXError) else next(encoded) for item in prepared]

    def _encode_good(self, clips: list[Prepared]) -> list[Outcome]:
        """Together, or one by one where the batch fails as a whole."""
        together = _attempt(partial(self.encode_prepared, clips))
        if not isinstance(together, EditXError):
            return list(together)
        return [together] if len(clips) == 1 else [self._encode_good([clip])[0] for clip in clips]

    def encode_batch(self, clips: list[Clip]) -> list[Reference]:
        """Clips of any rates and lengths -> a Reference each, equal to what each gives alone.

        Raises:
            InvalidInputError: a clip cannot be encoded.
        """
        return self.encode_prepared([_prepared(clip) for clip in clips])

    @torch.inference_mode()
    def encode_prepared(self, clips: list[Prepared]) -> list[Reference]:
        """What ``encode_batch`` does once clips are known to be good."""
        return [reference for group in self._groups(clips) for reference in self._encode_group(group)]

    def _groups(self, clips: list[Prepared]) -> Iterator[list[Prepared]]:
        """The clips in parts that go through the networks together."""
        group: list[Prepared] = []
        for clip in clips:
            if group and sum(member.duration for member in group) + clip.duration > self.group_s:
                yield group
                group = []
            group.append(clip)
        if group:
            yield group

    def _encode_group(self, clips: list[Prepared]) -> list[Reference]:
        signals = [torch.tensor(clip.samples, device=self.device) for clip in clips]
        rates = [clip.sample_rate for clip in clips]
        at16 = resample_all(signals, rates, TOKEN_RATE)
        speech = trim_silence([normalize_energy(signal) for signal in at16])
        codes02, codes06, speakers, mels = self.lanes.run(
            partial(self.vq02, speech),
            partial(self.codes06, speech),
            partial(self.speakers, at16),
            partial(self.mels, signals, rates),
        )
        columns = map(_arrays, (codes02, codes06, mels, [speaker[None] for speaker in speakers]))
        return [
            Reference(c2.astype(np.int32), c6.astype(np.int32), mel, speaker[0], clip.duration)
            for clip, c2, c6, mel, speaker in zip(clips, *columns, strict=True)
        ]

    def codes06(self, signals: list[Tensor]) -> list[Tensor]:
        """VQ06 codes of every signal: all pieces of all of them in one batch."""
        split = [pieces(signal.to(self.s3_device)) for signal in signals]
        codes = iter(self.s3(self.whisper([piece for parts in split for piece in parts])))
        return [torch.cat([next(codes) for _ in parts]) for parts in split]

    def speakers(self, signals: list[Tensor]) -> list[Tensor]:
        """Speaker vectors (192,) of signals at 16 kHz."""
        return self.speaker([fbank - fbank.mean(0) for fbank in self.fbank(signals)])

    def mels(self, signals: list[Tensor], rates: list[int]) -> list[Tensor]:
        """The vocoder's mels (frames, 80) of signals at their own rates."""
        return self.mel(resample_all(signals, rates, SAMPLE_RATE))


def _prepared(clip: Clip) -> Prepared:
    return Prepared(prepare(clip), clip.sample_rate, clip.duration)


def _attempt(action: Callable[[], T]) -> T | EditXError:
    try:
        return action()
    except EditXError as error:
        return error
    except Exception as error:  # anything else is this stage's fault, and must not reach the other clips
        logger.exception("encoding failed")
        return StageError(f"the encoder failed: {type(error).__name__}")


def _arrays(tensors: list[Tensor]) -> list[np.ndarray]:
    """To the CPU in one copy, then apart again: each array owns its memory and outlives the batch's."""
    together = torch.cat(tensors).cpu().numpy()
    return [part.copy() for part in np.split(together, np.cumsum([len(tensor) for tensor in tensors])[:-1])]
