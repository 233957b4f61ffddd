"""The GPU's part of the model that is not a linear layer: norms, gate, attention and drawing."""

import torch
import triton

from deployments.llm.kernels import attention, elementwise
from deployments.llm.kernels.fusion import AddNorm, Normed, Workspace
from deployments.llm.kernels.linear import DenseLinear, QuantisedLinear, matvec
from deployments.llm.kernels.sampling import draw_kernel
from deployments.llm.model import Chunk, KVCache
from deployments.llm.runner import Sampler, SlotState, Vocabulary
from deployments.llm.sampling import CYCLE_COLUMNS, WINDOW
from deployments.llm.step1 import Step1Config, slopes
from deployments.llm.weights import Matmul
from deployments.types import AUDIO_CODES, GROUP, GROUP_SIZE, VQ02_CODES

PADDED_HEADS = 16
MAX_PARTS = 64
KEY_BLOCK = 64


def supported(config: Step1Config) -> bool:
    """Whether the attention kernels know the head's width and the group's size."""
    heads = config.num_attention_heads // config.num_attention_groups
    return config.head_dim in (16, 32, 64, 128) and heads <= PADDED_HEADS


class GPUOps:
    """``model.Ops`` by kernels; see there for shapes."""

    def __init__(self, config: Step1Config, cache: KVCache, workspace: Workspace) -> None:
        self._config = config
        self._cache = cache
        self._space = workspace
        self._slopes = slopes(config.num_attention_heads).to(cache.keys.device)
        self._scale = config.head_dim**-0.5
        self._block = triton.next_power_of_2(config.hidden_size)
        self._shape = {
            "HEADS": config.num_attention_heads,
            "GROUPS": config.num_attention_groups,
            "DIM": config.head_dim,
        }

    def norm(self, x: torch.Tensor, weight: torch.Tensor) -> Normed:
        out = torch.empty_like(x)
        elementwise.norm_kernel[(len(x),)](
            *(x, weight, out, self._config.rms_norm_eps, x.shape[1]), BLOCK=self._block, **self._space.launch
        )
        return Normed(out)

    def settle(self, x: Normed) -> torch.Tensor:
        if x.squares is None:
            return x.values
        rows, width = x.values.shape
        parts = x.squares.shape[1]
        out = torch.empty_like(x.values)
        elementwise.settle_kernel[(rows,)](
            *(x.values, x.squares, out, x.eps, parts, width),
            P=triton.next_power_of_2(parts),
            BLOCK=self._block,
            **self._space.launch,
        )
        return out

    def multiply(self, matmul: Matmul, x: Normed) -> torch.Tensor:
        if isinstance(matmul, QuantisedLinear) and self._takes(matmul, x):
            return matmul.fused(x)[0]
        return matmul(self.settle(x))

    def multiply_gated(self, matmul: Matmul, x: Normed) -> torch.Tensor:
        if isinstance(matmul, QuantisedLinear) and self._takes(matmul, x) and self._space.ways.gate:
            return matmul.fused(x, gated=True)[0]
        if isinstance(matmul, DenseLinear) and len(x.values) == 1:
            return matvec(self.settle(x), matmul.matrix, self._space, gated=True)
        joined = self.multiply(matmul, x)
        width = joined.shape[1] // 2
        out = torch.empty(len(joined), width, dtype=joined.dtype, device=joined.device)
        elementwise.gate_kernel[(len(joined), triton.cdiv(width, 1024))](
            joined, out, width, BLOCK=1024, **self._space.launch
        )
        return out

    def multiply_add_norm(
        self, matmul: Matmul, x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor
    ) -> tuple[torch.Tensor, Normed]:
        eps = self._config.rms_norm_eps
        if isinstance(matmul, QuantisedLinear) and matmul.fuses(len(x)) and self._space.ways.norms:
            scaled, written = matmul.fused(Normed(x), after=AddNorm(residual, weight, eps))
            assert written is not None
            return written.total, Normed(scaled, written.squares, eps)
        product = matmul(x)
        total, out = torch.empty_like(product), torch.empty_like(product)
        elementwise.add_norm_kernel[(len(product),)](
            *(product, residual, weight, total, out, eps, product.shape[1]), BLOCK=self._block, **self._space.launch
        )
        return total, Normed(out)

    @staticmethod
    def _takes(matmul: QuantisedLinear, x: Normed) -> bool:
        """Whether a 4-bit product can pay what the rows owe: it adds up to MAX_PARTS parts of squares."""
        return matmul.fuses(len(x.values)) and (x.squares is None or x.squares.shape[1] <= MAX_PARTS)

    def prefill(self, qkv: torch.Tensor, layer: int, chunk: Chunk) -> torch.Tensor:
        rows, shape = len(qkv), self._shape
        keys, values = self._cache.keys[layer], self._cache.values[layer]
        place = (qkv, keys, values, chunk.slot, chunk.start)
        attention.write_kernel[(rows, shape["GROUPS"])](*place, self._cache.max_length, **shape, num_warps=1)
        out = torch.empty(rows, shape["HEADS"] * shape["DIM"], dtype=qkv.dtype, device=qkv.device)
        attention.prefill_kernel[(triton.cdiv(rows, 64), shape["HEADS"])](
            *(*place, self._slopes, out, rows, self._cache.max_length, self._scale), **shape, BLOCK_M=64, BLOCK_N=64
        )
        return out

    def decode(self, qkv: torch.Tensor, layer: int, slots: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        rows, shape = len(qkv), self._shape
        split = attention_split(rows)
        space = self._space
        assert rows * shape["GROUPS"] * split * PADDED_HEADS * (shape["DIM"] + 2) <= space.parts.numel()
        out = torch.empty(rows, shape["HEADS"] * shape["DIM"], dtype=qkv.dtype, device=qkv.device)
        attention.decode_kernel[(rows, shape["GROUPS"], split)](
            *(qkv, self._cache.keys[layer], self._cache.values[layer], slots, positions, self._slopes, out),
            *(space.parts, space.arrived, self._cache.slots, self._cache.max_length, self._scale),
            **shape,
            PADDED=PADDED_HEADS,
            BLOCK=KEY_BLOCK,
            SPLIT=split,
            **space.prefetch,
            **space.launch,
        )
        return out


def attention_split(rows: int) -> int:
    """Programs that share a row's keys, a power of two: enough that one long row fills the GPU."""
    return max(4, min(16, triton.next_power_of_2(triton.cdiv(64, rows))))


class GPUSampler(Sampler):
    """``runner.Sampler`` whose constrained rows are drawn and moved on by one kernel."""

    def __init__(self, head: torch.Tensor, vocabulary: Vocabulary, workspace: Workspace) -> None:
        """The head's rows for codes are padded to a width that matrix products like."""
        super().__init__(head, vocabulary)
        self._space = workspace
        self._padded = torch.nn.functional.pad(self.cycle_head, (0, 0, 0, -CYCLE_COLUMNS % 64))
        self.cycle_head = self._padded[:CYCLE_COLUMNS]

    def draw_codes(self, hidden: torch.Tensor, state: SlotState, slots: torch.Tensor) -> torch.Tensor:
        """hidden (rows, hidden_size), the state of all slots, slots int64 (rows,) -> ids int64 (rows,)."""
        if len(hidden) == 1:
            logits = matvec(hidden, self._padded, self._space)
        else:
            logits = torch.nn.functional.linear(hidden, self._padded)
        out = torch.empty(len(hidden), dtype=torch.int64, device=hidden.device)
        draw_kernel[(len(hidden),)](
            *(logits, self.ids, state.rows, slots, out, len(state.rows) - 1, self.stops, self.audio, logits.shape[1]),
            FIRST_CODES=VQ02_CODES,
            CODES=AUDIO_CODES,
            COLUMNS=CYCLE_COLUMNS,
            WIDTH=SlotState.WIDTH,
            WINDOW=WINDOW,
            GROUP_FIRST=GROUP[0],
            GROUP=GROUP_SIZE,
            BLOCK=triton.next_power_of_2(CYCLE_COLUMNS),
            BITS=16 if logits.dtype == torch.bfloat16 else 32,  # a bfloat16 leaves the lower half zero
            num_warps=8,
            **self._space.launch,
        )
        return out
