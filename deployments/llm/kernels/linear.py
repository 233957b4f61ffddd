"""Linear layers on a GPU: what is multiplied how, by number of rows."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import triton

from deployments.llm.kernels.elementwise import matvec_kernel
from deployments.llm.kernels.fusion import AddNorm, Normed, Workspace, Written, fused_arguments, new_squares
from deployments.llm.kernels.planes import INT4, NF4
from deployments.llm.kernels.quantised import dequantise_kernel, quantised_matmul_kernel
from deployments.llm.quantization import NF4_TABLE, Int4Weight, NF4Weight, dense
from deployments.llm.weights import Matmul, Place, Weight

TILE = 128
LINE = 64
"""bfloat16 numbers in a line of the cache."""
MAX_ROWS = 32
"""Up to so many rows the 4-bit kernel reads the weights as they are; beyond, it pays to expand a matrix first."""


def matvec(x: torch.Tensor, matrix: torch.Tensor, space: Workspace, gated: bool = False) -> torch.Tensor:
    """One row times a matrix (N, K) -> (1, N); ``gated``: a matrix (2 N, K), and silu(gate) * up."""
    inner = matrix.shape[1]
    size, rows = (matrix.shape[0] // 2, 1) if gated else (matrix.shape[0], 2)
    out = torch.empty(1, size, dtype=x.dtype, device=x.device)
    matvec_kernel[(triton.cdiv(size, rows),)](
        *(x, matrix, out, size, inner),
        GATED=gated,
        ROWS=rows,
        BLOCK=1024 if inner >= 1024 else 256,
        LINES=triton.next_power_of_2(triton.cdiv(rows * inner, LINE)),
        **space.prefetch,
        **space.launch,
    )
    return out


class DenseLinear:
    """A bfloat16 matrix (out, in)."""

    def __init__(self, matrix: torch.Tensor, workspace: Workspace) -> None:
        self.matrix = matrix
        self.workspace = workspace

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x (rows, in) -> (rows, out)."""
        if len(x) == 1:
            return matvec(x, self.matrix, self.workspace)
        return torch.nn.functional.linear(x, self.matrix)


@dataclass(frozen=True)
class Launch:
    """How a 4-bit product is cut up: rows and outputs per program, programs per block of outputs."""

    block_m: int
    block_n: int
    split: int
    warps: int = 4
    stages: int = 4


Planner = Callable[[int, int, int], Launch]
"""(out, in, rows) -> Launch"""


def planner(programs: int = 512, block_n: int = 64, stages: int = 4, narrow: int = 16) -> Planner:
    """Split products until ``programs`` of them keep the memory busy, some 3 or 4 per multiprocessor.

    ``narrow``: rows that a program computes when there are no more than that; otherwise it computes 32.
    """

    def plan(out: int, inner: int, rows: int) -> Launch:
        block_m = next(size for size in sorted({narrow, 16, 32}) if rows <= size)
        blocks, split = triton.cdiv(out, block_n), 1
        while split < 8 and blocks * split * 2 <= programs and split * 4 <= inner // TILE:
            split *= 2
        return Launch(block_m, block_n, split, stages=stages)

    return plan


plan = planner()


class QuantisedLinear:
    """A 4-bit matrix in the kernels' layout; see ``quantised``."""

    def __init__(self, weight: Int4Weight | NF4Weight, workspace: Workspace) -> None:
        self.out, self.inner = weight.codes.shape
        assert packable(weight)
        self.workspace = workspace
        self.plan: Planner = plan
        self.words = pack_words(weight.codes)
        if isinstance(weight, NF4Weight):
            self._kind, self._group, self._symmetric = NF4.value, weight.block, True
            self.scales = weight.absmax.view(self.out, -1).T.contiguous()
            self.zeros = weight.table
        else:
            self._kind, self._group = INT4.value, weight.group_size
            self._symmetric = bool((weight.zeros == 8).all())
            self.scales = weight.scales.T.contiguous()
            self.zeros = self.scales if self._symmetric else _offset_bits(weight.zeros.T)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x bfloat16 (rows, in) -> (rows, out)."""
        if not self.fuses(len(x)):
            return torch.nn.functional.linear(x, self.expand(x.dtype))
        return self.fused(Normed(x))[0]

    def fuses(self, rows: int) -> bool:
        """Whether ``fused`` takes so many rows."""
        return rows <= MAX_ROWS

    def fused(
        self, x: Normed, gated: bool = False, after: AddNorm | None = None, launch: Launch | None = None
    ) -> tuple[torch.Tensor, Written | None]:
        """The product without expanding the weights, with what comes before and after it."""
        values, size = x.values, self.out // (2 if gated else 1)
        launch = launch or self.plan(size, self.inner, len(values))
        blocks = triton.cdiv(size, launch.block_n)
        out = torch.empty(len(values), size, dtype=values.dtype, device=values.device)
        written = Written(torch.empty_like(out), new_squares(out, blocks)) if after else None
        space = self.workspace
        assert launch.split * launch.block_m * self.out <= space.parts.numel() and blocks <= space.arrived.numel()
        quantised_matmul_kernel[(blocks, launch.split)](
            *(values, self.words, self.scales, self.zeros, out, space.parts, space.arrived),
            *fused_arguments(x, after, written, out),
            *(len(values), size, after.eps if after else x.eps, self.inner),
            **self._constants,
            GATED=gated,
            SCALED=0 if x.squares is None else x.squares.shape[1],
            ADDED=after is not None,
            BLOCK_M=launch.block_m,
            BLOCK_N=launch.block_n,
            SPLIT=launch.split,
            num_warps=launch.warps,
            num_stages=launch.stages,
            **space.prefetch,
            **space.launch,
        )
        return out, written

    def expand(self, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        """The matrix (out, in)."""
        out = torch.empty(self.out, self.inner, dtype=dtype, device=self.words.device)
        grid = (triton.cdiv(self.out, 64), self.inner // TILE)
        dequantise_kernel[grid](
            *(self.words, self.scales, self.zeros, out, self.out, self.inner), **self._constants, BLOCK_N=64
        )
        return out

    @property
    def _constants(self) -> dict[str, int | bool]:
        return {"KIND": self._kind, "GROUP": self._group, "SYMMETRIC": self._symmetric}


def packable(weight: Int4Weight | NF4Weight) -> bool:
    """Whether the kernels can multiply it: whole tiles of inputs, groups that fill tiles, the standard NF4 table."""
    inner = weight.codes.shape[1]
    if isinstance(weight, NF4Weight):
        standard = torch.tensor(NF4_TABLE, device=weight.table.device)
        return inner % TILE == 0 and weight.block in (64, 128) and torch.allclose(weight.table, standard, atol=1e-6)
    return inner % TILE == 0 and weight.group_size % TILE == 0


def pack_words(codes: torch.Tensor) -> torch.Tensor:
    """codes uint8 (out, in) -> int16 (in / 128, out, 32)."""
    planes = codes.unflatten(1, (-1, 4, 32)).int()  # (out, tiles, plane, 32)
    words = planes[:, :, 0] | planes[:, :, 1] << 4 | planes[:, :, 2] << 8 | planes[:, :, 3] << 12
    return words.to(torch.int16).transpose(0, 1).contiguous()


def _offset_bits(zeros: torch.Tensor) -> torch.Tensor:
    """uint8 -> int16, the bits of bfloat16 -(128 + zero)."""
    return (-(128 + zeros.float())).to(torch.bfloat16).contiguous().view(torch.int16)


def place_on_gpu(workspace: Workspace) -> Place:
    """4-bit weights stay so where the kernels can multiply them; whatever else becomes bfloat16."""

    def place(weights: list[Weight]) -> Matmul:
        first = weights[0]
        if isinstance(first, Int4Weight) and all(isinstance(one, Int4Weight) for one in weights):
            ints = [one for one in weights if isinstance(one, Int4Weight)]
            joined: Int4Weight | NF4Weight = Int4Weight(
                *(torch.cat([getattr(one, part) for one in ints]) for part in ("codes", "scales", "zeros"))
            )
        elif isinstance(first, NF4Weight) and all(isinstance(one, NF4Weight) for one in weights):
            floats = [one for one in weights if isinstance(one, NF4Weight)]
            codes, absmax = (torch.cat([getattr(one, part) for one in floats]) for part in ("codes", "absmax"))
            joined = NF4Weight(codes, first.table, absmax, first.block)
        else:
            return DenseLinear(torch.cat([dense(one).to(torch.bfloat16) for one in weights]), workspace)
        if not packable(joined):
            return DenseLinear(joined.dequantize().to(torch.bfloat16), workspace)
        return QuantisedLinear(joined, workspace)

    return place
