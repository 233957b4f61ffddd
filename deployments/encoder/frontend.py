"""VQ02's input: 16 kHz audio -> rows of seven stacked filter-bank frames, normalised.

The published pipeline computes these piece by piece, 240 ms at a time. A row depends only on the frames around it,
so here they are computed for the whole clip; only the number of rows follows the pieces.
"""

import re
from pathlib import Path

import torch
from torch import Tensor, nn

from deployments.encoder.features import KALDI_BANDS, KaldiFbank
from deployments.errors import CheckpointError

STACK, STRIDE = 7, 6
ROW_SIZE = STACK * KALDI_BANDS
PIECE = 3840
PIECE_ROWS = 4
TAIL_SAMPLES = (880, 1360, 2320, 3280)  # a last piece of at least so many samples gives 1, 2, 3, 4 rows
INT16_SCALE = 32768.0


def row_count(samples: int) -> int:
    """Rows of a clip of so many samples: four for each whole piece, and what the tail is worth."""
    whole, tail = divmod(samples, PIECE)
    return whole * PIECE_ROWS + sum(tail >= least for least in TAIL_SAMPLES)


def read_cmvn(path: Path) -> Tensor:
    """Shift and scale of the rows, (2, 560), from Kaldi's text format. Raises CheckpointError."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise CheckpointError([f"{path}: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise CheckpointError([f"{path}: not a text file"]) from error
    rows = []
    for tag in ("AddShift", "Rescale"):
        match = re.search(rf"<{tag}>[^\[]*\[([^\]]*)\]", text)
        try:
            rows.append([float(number) for number in match[1].split()] if match else [])
        except ValueError as error:
            raise CheckpointError([f"{path}: <{tag}> is not a row of numbers"]) from error
        if len(rows[-1]) != ROW_SIZE:
            raise CheckpointError([f"{path}: <{tag}> has {len(rows[-1])} numbers, expected {ROW_SIZE}"])
    return torch.tensor(rows)


class Frontend(nn.Module):
    """Signals at 16 kHz, (n,) each, -> rows, (row_count(n), 560) each. Dither is off."""

    cmvn: Tensor

    def __init__(self, cmvn: Tensor) -> None:
        super().__init__()
        self.fbank = KaldiFbank("hamming", scale=INT16_SCALE)
        self.register_buffer("cmvn", cmvn)

    def forward(self, signals: list[Tensor]) -> list[Tensor]:
        counts = [row_count(len(signal)) for signal in signals]
        frames = self.fbank(signals)
        indices, start = [], 0
        for count, part in zip(counts, frames, strict=True):
            indices.append(start + _stacked_frames(count, len(part)))
            start += len(part)
        rows = torch.cat(frames)[torch.cat(indices).to(self.cmvn.device)].flatten(1)  # (rows, 560)
        return list(((rows + self.cmvn[0]) * self.cmvn[1]).split(counts))


def _stacked_frames(rows: int, frames: int) -> Tensor:
    """Which frames make up each row, (rows, 7): centred on every sixth, the clip's first and last repeated."""
    centres = torch.arange(rows)[:, None] * STRIDE
    return (centres + torch.arange(STACK) - STACK // 2).clamp(0, max(frames - 1, 0))
