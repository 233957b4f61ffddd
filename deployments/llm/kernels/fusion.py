"""What products share: memory, how they are launched, and the norms and residuals that go into them."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Ways:
    """How a step's kernels work together; the defaults are what measured best.

    overlap: kernels may begin before the one ahead has ended, where the GPU can do that. prefetch: they use the
    time to bring weights into the L2 cache. norms: 4-bit products take in the norms and residuals around them.
    gate: so they do with the gate.
    """

    overlap: bool = False
    prefetch: bool = False
    norms: bool = True
    gate: bool = True


class Workspace:
    """What kernels share: memory, since they run one after another on one stream, and how they are launched."""

    def __init__(self, device: torch.device, ways: Ways | None = None, floats: int = 1 << 22) -> None:
        self.parts = torch.empty(floats, dtype=torch.float32, device=device)
        self.arrived = torch.zeros(4096, dtype=torch.int32, device=device)
        self.ways = ways or Ways()
        self._can_overlap = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)

    @property
    def launch(self) -> dict[str, bool]:
        """Arguments of every kernel's launch."""
        return {"OVERLAP": True, "launch_pdl": True} if self._overlap else {"OVERLAP": False}

    @property
    def prefetch(self) -> dict[str, bool]:
        """The argument of kernels that can read ahead."""
        return {"PREFETCH": self._overlap and self.ways.prefetch}

    @property
    def _overlap(self) -> bool:
        return self._can_overlap and self.ways.overlap


@dataclass(frozen=True)
class Normed:
    """Rows after an RMS norm, of which the factor 1 / rms may still be owed.

    values (rows, hidden); squares float32 (rows, parts): parts of the sums of squares that the factor follows
    from, or None if it has been applied. Whoever multiplies the rows applies it to the product: that saves a
    kernel per norm.
    """

    values: torch.Tensor
    squares: torch.Tensor | None = None
    eps: float = 0.0


@dataclass(frozen=True)
class AddNorm:
    """What follows a product: adding to the residual (rows, out), and a norm with weight (out,)."""

    residual: torch.Tensor
    weight: torch.Tensor
    eps: float


@dataclass(frozen=True)
class Written:
    """Where a kernel writes what ``AddNorm`` asks for."""

    total: torch.Tensor
    squares: torch.Tensor


def new_squares(out: torch.Tensor, blocks: int) -> torch.Tensor:
    """float32 (rows, blocks), to be written."""
    return torch.empty(len(out), blocks, dtype=torch.float32, device=out.device)


def fused_arguments(
    x: Normed, after: AddNorm | None, written: Written | None, unused: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """The kernels' arguments SQUARES, RESIDUAL, WEIGHT, TOTAL, NEW_SQUARES."""
    squares = unused if x.squares is None else x.squares
    if after is None or written is None:
        return squares, unused, unused, unused, unused
    return squares, after.residual, after.weight, written.total, written.squares
