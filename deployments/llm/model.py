"""The language model's arithmetic over slots of a preallocated cache: tensors only, no requests.

A slot holds the keys and values of one request. ``prefill`` runs a piece of one prompt, ``decode`` one token
of many requests. What differs between devices (norms, attention, cache writes) is an ``Ops``.
"""

from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from deployments.llm.step1 import Step1Config, attention_bias, slopes
from deployments.llm.weights import Matmul, Weights


@dataclass(frozen=True)
class KVCache:
    """keys and values (layers, slots, groups, max_length, head_dim)."""

    keys: torch.Tensor
    values: torch.Tensor

    @property
    def slots(self) -> int:
        return self.keys.shape[1]

    @property
    def max_length(self) -> int:
        return self.keys.shape[3]


def allocate(config: Step1Config, slots: int, max_length: int, device: torch.device, dtype: torch.dtype) -> KVCache:
    """An empty cache. Zeros rather than garbage: what is masked is multiplied by zero, which must not be NaN."""
    shape = (config.num_hidden_layers, slots, config.num_attention_groups, max_length, config.head_dim)
    return KVCache(*(torch.zeros(shape, device=device, dtype=dtype) for _ in range(2)))


def bytes_per_token(config: Step1Config, dtype: torch.dtype) -> int:
    """What one token takes in the cache: 32 KiB at full size in bfloat16."""
    return 2 * config.num_hidden_layers * config.num_attention_groups * config.head_dim * dtype.itemsize


@dataclass(frozen=True)
class Chunk:
    """A piece of one prompt: its slot and the position of its first token; int64 (1,) each on the device."""

    slot: torch.Tensor
    start: torch.Tensor


N = TypeVar("N")
"""Rows after a norm, in whatever form an ``Ops`` multiplies them."""


class Ops(Protocol[N]):
    """What differs between devices. x and residual are (rows, hidden), qkv (rows, (heads + 2 groups) * head_dim)."""

    def norm(self, x: torch.Tensor, weight: torch.Tensor) -> N: ...

    def settle(self, x: N) -> torch.Tensor:
        """Normed rows as a plain tensor."""

    def multiply(self, matmul: Matmul, x: N) -> torch.Tensor: ...

    def multiply_gated(self, matmul: Matmul, x: N) -> torch.Tensor:
        """silu(gate) * up of a joined gate and up projection."""

    def multiply_add_norm(
        self, matmul: Matmul, x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor
    ) -> tuple[torch.Tensor, N]:
        """The product + residual, and its norm."""

    def prefill(self, qkv: torch.Tensor, layer: int, chunk: Chunk) -> torch.Tensor:
        """Write a chunk's keys and values, attend: (rows, heads * head_dim)."""

    def decode(self, qkv: torch.Tensor, layer: int, slots: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Write one key and value per row, attend: (rows, heads * head_dim). A slot beyond the last is padding."""


class TorchOps:
    """Plain torch: the CPU's path, and what kernels are checked against.

    Rows of a decode attend one by one over their own length, so that neighbours never change a row's result.
    """

    def __init__(self, config: Step1Config, cache: KVCache) -> None:
        self._cache = cache
        self._config = config
        self._slopes = slopes(config.num_attention_heads).to(cache.keys.device)
        position = torch.arange(cache.max_length, device=cache.keys.device)
        last = position[-1:]
        # (heads, max_length): entry t is the bias at distance max_length - 1 - t, so any row is a slice's end
        self._decode_bias = attention_bias(self._slopes, last, position)[:, 0].to(cache.keys.dtype)

    def norm(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x, (x.shape[-1],), weight, self._config.rms_norm_eps)

    def settle(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def multiply(self, matmul: Matmul, x: torch.Tensor) -> torch.Tensor:
        return matmul(x)

    def multiply_gated(self, matmul: Matmul, x: torch.Tensor) -> torch.Tensor:
        gate, up = matmul(x).chunk(2, dim=-1)
        return F.silu(gate) * up

    def multiply_add_norm(
        self, matmul: Matmul, x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        total = matmul(x) + residual
        return total, self.norm(total, weight)

    def prefill(self, qkv: torch.Tensor, layer: int, chunk: Chunk) -> torch.Tensor:
        slot, start = int(chunk.slot), int(chunk.start)
        end = start + len(qkv)
        keys, values = self._cache.keys[layer, slot], self._cache.values[layer, slot]
        query, key, value = self._split(qkv)  # (heads or groups, rows, head_dim)
        keys[:, start:end] = key
        values[:, start:end] = value
        position = torch.arange(end, device=qkv.device)
        bias = attention_bias(self._slopes, position[start:], position).to(qkv.dtype)
        return self._attend(query, keys[:, :end], values[:, :end], bias)

    def decode(self, qkv: torch.Tensor, layer: int, slots: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        query, key, value = self._split(qkv)
        out = torch.zeros(len(qkv), query.shape[0] * query.shape[2], device=qkv.device, dtype=qkv.dtype)
        for row, (slot, position) in enumerate(zip(slots.tolist(), positions.tolist(), strict=True)):
            if slot >= self._cache.slots:
                continue
            keys, values = self._cache.keys[layer, slot], self._cache.values[layer, slot]
            keys[:, position] = key[:, row]
            values[:, position] = value[:, row]
            end = position + 1
            bias = self._decode_bias[:, None, -end:]
            out[row] = self._attend(query[:, row : row + 1], keys[:, :end], values[:, :end], bias)[0]
        return out

    def _split(self, qkv: torch.Tensor) -> tuple[torch.Tensor, ...]:
        config = self._config
        sizes = [config.num_attention_heads, config.num_attention_groups, config.num_attention_groups]
        return qkv.view(len(qkv), -1, config.head_dim).transpose(0, 1).split(sizes)

    @staticmethod
    def _attend(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        inputs = (query[None], keys[None], values[None], bias[None])
        if not query.is_cuda:
            out = F.scaled_dot_product_attention(*inputs, enable_gqa=True)
        else:
            with sdpa_kernel(SDPBackend.MATH):  # cuDNN, the default there, fails on a single query with this bias
                out = F.scaled_dot_product_attention(*inputs, enable_gqa=True)
        return out[0].transpose(0, 1).flatten(1)


class SlotModel:
    """Weights, cache and ops put together."""

    def __init__(self, weights: Weights, ops: Ops[Any]) -> None:
        self.weights = weights
        self._ops = ops

    def prefill(self, ids: torch.Tensor, chunk: Chunk) -> torch.Tensor:
        """int64 (rows,), consecutive tokens of one prompt -> normed hidden states (rows, hidden)."""
        return self._run(ids, lambda qkv, layer: self._ops.prefill(qkv, layer, chunk))

    def decode(self, ids: torch.Tensor, slots: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """int64 (rows,): each row's newest token, slot and position -> normed hidden states (rows, hidden)."""
        return self._run(ids, lambda qkv, layer: self._ops.decode(qkv, layer, slots, positions))

    def _run(self, ids: torch.Tensor, attend: "_Attend") -> torch.Tensor:
        ops, weights = self._ops, self.weights
        x = weights.embedding[ids]
        normed = ops.norm(x, weights.layers[0].input_norm)
        for index, layer in enumerate(weights.layers):
            following = weights.layers[index + 1].input_norm if index + 1 < len(weights.layers) else weights.norm
            attended = attend(ops.multiply(layer.qkv, normed), index)
            x, normed = ops.multiply_add_norm(layer.o, attended, x, layer.post_norm)
            gated = ops.multiply_gated(layer.gate_up, normed)
            x, normed = ops.multiply_add_norm(layer.down, gated, x, following)
        return ops.settle(normed)


class _Attend(Protocol):
    def __call__(self, qkv: torch.Tensor, layer: int) -> torch.Tensor: ...
