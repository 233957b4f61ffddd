"""A reference clip -> its tokens, mel and speaker vector, for many clips at once.

Knows nothing of Ray: the deployment beside it batches requests and calls ``encode_outcomes``.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from deployments.checkpoint import Layout
from deployments.encoder import vq02
from deployments.encoder.audio import TOKEN_RATE, normalize_energy, prepare, resample, trim_silence
from deployments.encoder.features import KaldiFbank, MelSpectrogram, WhisperMel
from deployments.encoder.s3 import pieces
from deployments.encoder.s3_weights import load_s3
from deployments.encoder.sessions import S3Session, SessionOptions, SpeakerSession, open_session
from deployments.errors import EditXError, StageError
from deployments.types import SAMPLE_RATE, Clip, Reference

logger = logging.getLogger(__name__)
T = TypeVar("T")
Outcome = Reference | EditXError
Network = Callable[[list[Tensor]], list[Tensor]]


@dataclass(frozen=True)
class Options:
    """How the networks run. The defaults give the streaming loop's tokens.

    vq02_mode: "blocks", or "reference" for the streaming loop itself. s3_backend: "torch" (batched) or "onnx".
    session: ONNX Runtime's options, for the graphs that it runs.
    """

    vq02_mode: vq02.Mode = "blocks"
    s3_backend: Literal["torch", "onnx"] = "torch"
    session: SessionOptions = field(default_factory=SessionOptions)


class Encoder:
    """The encoder's networks and features on one device.

    Args:
        tokens02: 16 kHz signals -> VQ02 codes.
        tokens06: log-mels -> VQ06 codes.
        speaker: filter banks -> speaker vectors.
    """

    def __init__(self, tokens02: vq02.Vq02, tokens06: Network, speaker: Network, device: torch.device) -> None:
        self.device = device
        self.vq02 = tokens02.to(device)
        self.s3 = tokens06
        self.speaker = speaker
        self.mel = MelSpectrogram().to(device)
        self.whisper = WhisperMel().to(device)
        self.fbank = KaldiFbank("povey").to(device)

    def encode_outcomes(self, clips: list[Clip]) -> list[Outcome]:
        """A result or an error for every clip: one that cannot be encoded takes no other with it."""
        prepared: list[np.ndarray | EditXError] = [_attempt(partial(prepare, clip)) for clip in clips]
        good = [index for index, value in enumerate(prepared) if isinstance(value, np.ndarray)]
        outcomes: list[Outcome | None] = [value if isinstance(value, EditXError) else None for value in prepared]
        for index, outcome in zip(good, self._encode_good([clips[index] for index in good]), strict=True):
            outcomes[index] = outcome
        return [outcome for outcome in outcomes if outcome is not None]

    def _encode_good(self, clips: list[Clip]) -> list[Outcome]:
        """Together, or one by one where the batch fails as a whole."""
        together = _attempt(partial(self.encode_batch, clips))
        if not isinstance(together, EditXError):
            return list(together)
        return [together] if len(clips) == 1 else [self._encode_good([clip])[0] for clip in clips]

    @torch.inference_mode()
    def encode_batch(self, clips: list[Clip]) -> list[Reference]:
        """Clips of any rates and lengths -> a Reference each, equal to what each gives alone.

        Raises:
            InvalidInputError: a clip cannot be encoded.
        """
        if not clips:
            return []
        signals = [torch.from_numpy(prepare(clip)).to(self.device) for clip in clips]
        at16 = [resample(x, clip.sample_rate, TOKEN_RATE) for x, clip in zip(signals, clips, strict=True)]
        at24 = [resample(x, clip.sample_rate, SAMPLE_RATE) for x, clip in zip(signals, clips, strict=True)]
        speech = trim_silence([normalize_energy(x) for x in at16])
        codes02 = self.vq02(speech)
        codes06 = self._codes06(speech)
        mels = self.mel(at24)
        speakers = self.speaker([fbank - fbank.mean(0) for fbank in self.fbank(at16)])
        parts = zip(clips, codes02, codes06, mels, speakers, strict=True)
        return [
            Reference(_numpy(c2, torch.int32), _numpy(c6, torch.int32), _numpy(mel), _numpy(who), clip.duration)
            for clip, c2, c6, mel, who in parts
        ]

    def _codes06(self, signals: list[Tensor]) -> list[Tensor]:
        """VQ06 of every signal: all pieces of all of them in one batch."""
        split = [pieces(signal) for signal in signals]
        codes = iter(self.s3(self.whisper([piece for parts in split for piece in parts])))
        return [torch.cat([next(codes) for _ in parts]) for parts in split]


def load(layout: Layout, device: torch.device, options: Options | None = None) -> Encoder:
    """The encoder with a checkpoint's weights. Raises CheckpointError."""
    options = options or Options()
    tokens02 = vq02.load(layout.paraformer, layout.codebook, options.vq02_mode)
    tokens06: Network
    if options.s3_backend == "onnx":
        tokens06 = S3Session(open_session(layout.s3, options.session))
    else:
        tokens06 = load_s3(layout.s3).to(device)
    speaker = SpeakerSession(open_session(layout.cosyvoice / "campplus.onnx", options.session))
    return Encoder(tokens02, tokens06, speaker, device)


def _attempt(action: Callable[[], T]) -> T | EditXError:
    try:
        return action()
    except EditXError as error:
        return error
    except Exception as error:  # anything else is this stage's fault, and must not reach the other clips
        logger.exception("encoding failed")
        return StageError(f"the encoder failed: {type(error).__name__}")


def _numpy(tensor: Tensor, dtype: torch.dtype = torch.float32) -> np.ndarray:
    return tensor.to("cpu", dtype).numpy()
