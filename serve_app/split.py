"""Long audio in pieces for the language model, cut where it is quietest."""

import numpy as np

from deployments.types import Clip

_FRAME_S = 0.02
_SMOOTH_FRAMES = 9
_EARLIEST = 0.5


def split(clip: Clip, longest_s: float) -> list[Clip]:
    """``clip`` in pieces of at most ``longest_s`` seconds that join to it without a gap.

    Each cut lies at the quietest moment of the second half of what a piece may hold, so that no piece is short.
    """
    frame = max(1, round(_FRAME_S * clip.sample_rate))
    energy = _energy(clip.samples, frame)
    longest = int(longest_s * clip.sample_rate) // frame
    pieces, start = [], 0
    while len(energy) - start > longest:
        earliest = start + int(longest * _EARLIEST)
        cut = earliest + int(np.argmin(energy[earliest : start + longest]))
        pieces.append(Clip(clip.samples[:, start * frame : cut * frame], clip.sample_rate))
        start = cut
    return [*pieces, Clip(clip.samples[:, start * frame :], clip.sample_rate)]


def _energy(samples: np.ndarray, frame: int) -> np.ndarray:
    """Smoothed mean square of each frame, the unfinished last one included -> (frames,)."""
    mono = samples.mean(axis=0)
    padded = np.pad(mono, (0, -len(mono) % frame))
    squares = (padded.reshape(-1, frame) ** 2).mean(axis=1)
    return np.convolve(squares, np.ones(_SMOOTH_FRAMES) / _SMOOTH_FRAMES, mode="same")
