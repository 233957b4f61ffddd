"""VQ02, the "linguistic" codebook: 16 kHz audio -> 16.7 codes a second, the nearest of 1024 centroids."""

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from deployments.encoder import paraformer
from deployments.encoder.blocks import Layers, Runner, cut, finish, make_plan, position_table
from deployments.encoder.frontend import ROW_SIZE, Frontend, read_cmvn
from deployments.errors import CheckpointError
from deployments.types import VQ02_CODES

Mode = Literal["blocks", "reference"]
PLACES = 2048  # two minutes of audio; the table grows when a longer clip comes


class Vq02(nn.Module):
    """Front end, network and centroids.

    Args:
        encoder: FunASR's encoder.
        cmvn: shift and scale of the rows, (2, 560).
        centroids: (codes, output_size).
        mode: "blocks" takes all blocks of all clips through each layer together; "reference" is the streaming loop.

    ``layers`` runs the network's layers; it may be replaced by another way to run the same.
    """

    centroids: Tensor
    offsets: Tensor
    positions: Tensor

    def __init__(self, encoder: paraformer.SanmEncoder, cmvn: Tensor, centroids: Tensor, mode: Mode = "blocks") -> None:
        super().__init__()
        self.frontend = Frontend(cmvn)
        self.encoder = encoder
        self.mode = mode
        self.layers: Runner = Layers(encoder)
        self.register_buffer("centroids", centroids)
        self.register_buffer("offsets", centroids.square().sum(1))
        self.register_buffer("positions", position_table(PLACES, ROW_SIZE))

    def forward(self, signals: list[Tensor]) -> list[Tensor]:
        """Signals (n,) at 16 kHz -> codes (row_count(n),) int64 each."""
        rows = self.frontend(signals)
        counts = [len(part) for part in rows]
        if self.mode == "reference":
            hidden = torch.cat([paraformer.encode_streaming(self.encoder, part) for part in rows])
        else:
            hidden = self.encode_blocks(torch.cat(rows), counts)
        return list(self.nearest(hidden).split(counts))

    def encode_blocks(self, rows: Tensor, counts: list[int]) -> Tensor:
        """Rows (n, 560) of clips of so many rows each -> (n, output_size), as the streaming loop over each clip."""
        if max(counts) > len(self.positions):
            self.positions = position_table(2 * max(counts), ROW_SIZE).to(rows.device)
        plan = make_plan(counts).to(rows.device)
        x = cut(self.encoder, rows, self.positions, plan)
        return finish(self.encoder, self.layers(x, plan.valid, plan.window, plan.seen), plan)

    def nearest(self, hidden: Tensor) -> Tensor:
        """The centroid at the smallest Euclidean distance, (n, output_size) -> (n,)."""
        return (self.offsets - 2 * hidden @ self.centroids.T).argmin(1)


def load(folder: Path, codebook: Path, mode: Mode = "blocks") -> Vq02:
    """VQ02 from a FunASR folder and a file of centroids, on the CPU. Raises CheckpointError."""
    encoder = paraformer.load(folder)
    centroids = torch.from_numpy(np.array(read_centroids(codebook, encoder.output_size()), dtype=np.float32))
    return Vq02(encoder, read_cmvn(folder / "am.mvn"), centroids, mode)


def read_centroids(path: Path, size: int) -> np.ndarray:
    """The k-means centroids, (1024, size), mapped from the file. Raises CheckpointError."""
    try:
        centroids = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise CheckpointError([f"{path}: {error.strerror or 'not a numpy file'}"]) from error
    except (ValueError, EOFError) as error:
        raise CheckpointError([f"{path}: not a numpy file of numbers"]) from error
    if centroids.shape != (VQ02_CODES, size):
        raise CheckpointError([f"{path}: has shape {list(centroids.shape)}, expected {[VQ02_CODES, size]}"])
    return centroids
