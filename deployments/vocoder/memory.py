"""What the estimator is told besides its input: what it remembers of earlier frames, and which frames exist."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Memory:
    """What the blocks remember of earlier frames at one Euler step. A forward pass completes it in place.

    attention: (depth, 2, rows, heads, remembered + frames, head_dim), keys and values; the last ones are those of the
    new frames, written by the pass. The order of frames does not matter, as attention knows no positions here.
    convolution: (depth, 2, rows, 2, hidden), the last two inputs of a block's two convolutions, at first zeros.
    ends: like convolution; the pass writes there what convolution is to be for the next frames.
    """

    attention: torch.Tensor
    convolution: torch.Tensor
    ends: torch.Tensor

    def of_block(self, index: int) -> "Memory":
        """One block's part, without the leading axis."""
        return Memory(self.attention[index], self.convolution[index], self.ends[index])


@dataclass(frozen=True)
class Rows:
    """Which frames of a padded batch exist; without it all do.

    mask: (rows, 1, 1, remembered + frames), added to attention scores: 0, or -inf where there is nothing.
    lengths: (rows,) new frames of each row.
    """

    mask: torch.Tensor
    lengths: torch.Tensor
