"""What travels between stages: frozen dataclasses of numpy arrays.

Ray moves numpy arrays without copies; on the other side they are read-only.
"""

from dataclasses import dataclass

import numpy as np

VQ02_CODES = 1024
VQ06_CODES = 4096
AUDIO_CODES = VQ02_CODES + VQ06_CODES
GROUP = (2, 3)
GROUP_SIZE = sum(GROUP)
GROUP_SECONDS = 0.12
SAMPLE_RATE = 24_000


@dataclass(frozen=True)
class Clip:
    """Decoded audio: float32 samples (channels, n) in [-1, 1] at ``sample_rate`` Hz."""

    samples: np.ndarray
    sample_rate: int

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.samples.shape[-1] / self.sample_rate


@dataclass(frozen=True)
class Reference:
    """What the encoder makes of a clip.

    vq02: int32 (n02,), 0..1023, 16.7 Hz. vq06: int32 (n06,), 0..4095, 25 Hz. mel: float32 (frames, 80) at 50 Hz,
    natural log. speaker: float32 (192,), not normalised. duration: seconds of the clip as it came. cached: found, not
    computed.
    """

    vq02: np.ndarray
    vq06: np.ndarray
    mel: np.ndarray
    speaker: np.ndarray
    duration: float
    cached: bool = False

    @property
    def codes(self) -> np.ndarray:
        """Interleaved audio codes, int32 (5 * groups,)."""
        return interleave(self.vq02, self.vq06)


@dataclass(frozen=True)
class Sampling:
    """How the language model draws. ``temperature`` 0 is greedy. ``max_new_tokens`` None: a budget from the text.

    ``cycle``: only codes of the codebook whose turn it is can follow, and the end only after a whole group.
    """

    seed: int
    temperature: float = 0.7
    top_k: int = 50
    max_new_tokens: int | None = None
    cycle: bool = True


@dataclass(frozen=True)
class ClonePrompt:
    """Speak ``text`` with the voice of a reference: its transcript, audio codes (n,) and speaker name."""

    text: str
    transcript: str
    codes: np.ndarray
    speaker: str


@dataclass(frozen=True)
class EditPrompt:
    """Apply ``instruction`` to the audio codes (n,) of a clip."""

    instruction: str
    codes: np.ndarray


Prompt = ClonePrompt | EditPrompt


@dataclass(frozen=True)
class Generation:
    """Audio codes from the language model, int32 (n,), without the end token.

    finish_reason: "stop" (the model ended) or "length" (the budget did). queue_s, compute_s: seconds.
    """

    codes: np.ndarray
    finish_reason: str
    prompt_tokens: int
    queue_s: float
    compute_s: float


@dataclass(frozen=True)
class Speech:
    """float32 samples (n,) in [-1, 1] at 24 kHz; queue_s and compute_s in seconds."""

    samples: np.ndarray
    queue_s: float
    compute_s: float

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.samples.shape[-1] / SAMPLE_RATE


def interleave(vq02: np.ndarray, vq06: np.ndarray) -> np.ndarray:
    """Groups of 2 VQ02 and 3 VQ06 codes, the latter offset by 1024; what fills no whole group is dropped.

    vq02 (n02,), vq06 (n06,) -> int32 (5 * min(n02 // 2, n06 // 3),)
    """
    groups = min(len(vq02) // GROUP[0], len(vq06) // GROUP[1])
    first = np.reshape(vq02[: groups * GROUP[0]], (groups, GROUP[0]))
    second = np.reshape(vq06[: groups * GROUP[1]], (groups, GROUP[1])) + VQ02_CODES
    return np.concatenate([first, second], axis=1).reshape(-1).astype(np.int32)
