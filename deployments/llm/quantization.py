"""The quantised formats a model folder may come in, read from their tensors.

Three write 4-bit integers (pack-quantized compressed-tensors, symmetric or not, and AutoAWQ's GEMM layout) and
one NF4 (bitsandbytes, double quantisation or not). Each is brought to one plain form per kind: codes (out, in)
and what scales them, from which kernels repack and CPUs dequantise. What is none of these is refused by name.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from deployments.checkpoint import Shapes
from deployments.errors import CheckpointError

Get = Callable[[str], torch.Tensor]
_AUTOAWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)
"""Where column i of a group of eight lies in AutoAWQ's word: nibbles hold columns 0 2 4 6 1 3 5 7."""

NF4_TABLE = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
"""NF4's sixteen values as bitsandbytes writes them."""


@dataclass(frozen=True)
class Scheme:
    """How a folder's linear layers are stored: method "dense", "packed", "autoawq" or "nf4"; group of inputs."""

    method: str
    group_size: int = 0
    symmetric: bool = True


@dataclass(frozen=True)
class Int4Weight:
    """``(codes - zeros) * scales``: codes uint8 (out, in), scales and zeros (uint8) (out, in / group)."""

    codes: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor

    @property
    def group_size(self) -> int:
        return self.codes.shape[1] // self.scales.shape[1]

    def dequantize(self) -> torch.Tensor:
        """float32 (out, in)."""
        grouped = self.codes.unflatten(1, (-1, self.group_size)).float()
        return ((grouped - self.zeros.float()[..., None]) * self.scales.float()[..., None]).flatten(1)


@dataclass(frozen=True)
class NF4Weight:
    """``table[codes] * absmax``: codes uint8 (out, in); table float32 (16,); absmax float32 per block, row-major."""

    codes: torch.Tensor
    table: torch.Tensor
    absmax: torch.Tensor
    block: int

    def dequantize(self) -> torch.Tensor:
        """float32 (out, in)."""
        values = self.table[self.codes.flatten().int()]
        scale = self.absmax.repeat_interleave(self.block)[: values.numel()]
        return (values * scale).view(self.codes.shape)


def scheme_of(config: dict[str, Any], source: str) -> Scheme:
    """The scheme a config.json declares. Raises CheckpointError, with ``source`` in it, for any other format."""
    declared = config.get("quantization_config")
    if declared is None:
        return Scheme("dense")
    method = declared.get("quant_method")
    readers = {"bitsandbytes": _bitsandbytes, "compressed-tensors": _compressed_tensors, "awq": _autoawq}
    if method not in readers:
        raise CheckpointError([f"{source}: quantization method {method!r} is not supported: {', '.join(readers)} are"])
    try:
        return readers[method](declared)
    except (KeyError, AttributeError, TypeError, StopIteration) as error:
        raise CheckpointError([f"{source}: quantization_config of {method} is incomplete: {error}"]) from error
    except ValueError as error:
        raise CheckpointError([f"{source}: {error}"]) from error


def _bitsandbytes(declared: dict[str, Any]) -> Scheme:
    if not declared.get("load_in_4bit") or declared.get("bnb_4bit_quant_type") != "nf4":
        raise ValueError("of bitsandbytes' formats only NF4 is supported")
    return Scheme("nf4")


def _compressed_tensors(declared: dict[str, Any]) -> Scheme:
    groups = declared["config_groups"]
    if len(groups) != 1:
        raise ValueError(f"compressed-tensors with {len(groups)} config groups is not supported: one is")
    group = next(iter(groups.values()))
    layout = group.get("format") or declared.get("format")
    weights = group["weights"]
    if layout != "pack-quantized":
        raise ValueError(f"compressed-tensors format {layout!r} is not supported: pack-quantized is")
    if weights["num_bits"] != 4 or weights["type"] != "int" or weights["strategy"] != "group":
        found = f"{weights['num_bits']}-bit {weights['type']} by {weights['strategy']}"
        raise ValueError(f"pack-quantized {found} is not supported: 4-bit int by group is")
    if weights.get("actorder") not in (None, "weight", "static"):
        raise ValueError(f"pack-quantized with activation order {weights['actorder']!r} is not supported")
    if group.get("input_activations") is not None:
        raise ValueError("pack-quantized with quantised activations is not supported")
    return Scheme("packed", int(weights["group_size"]), bool(weights["symmetric"]))


def _autoawq(declared: dict[str, Any]) -> Scheme:
    version = str(declared.get("version", "gemm")).lower()
    bits = declared.get("bits", declared.get("w_bit"))
    if version != "gemm" or bits != 4:
        raise ValueError(f"AutoAWQ version {version!r} with {bits} bits is not supported: gemm with 4 is")
    return Scheme("autoawq", int(declared.get("group_size", declared.get("q_group_size", 0))), symmetric=False)


def stored_shapes(scheme: Scheme, name: str, out: int, inner: int, found: Shapes) -> Shapes:
    """Names and shapes under which a linear layer (out, inner) must be stored.

    ``found`` tells layers that were left dense from quantised ones (as lm_head is), and whether NF4's scales
    are themselves quantised.
    """
    if scheme.method == "dense" or found.get(f"{name}.weight") == (out, inner):
        return {f"{name}.weight": (out, inner)}
    if scheme.method == "nf4":
        return _nf4_shapes(name, out * inner, found)
    groups = inner // scheme.group_size
    if scheme.method == "autoawq":
        shapes: Shapes = {"qweight": (inner, out // 8), "qzeros": (groups, out // 8), "scales": (groups, out)}
    else:
        shapes = {"weight_packed": (out, -(-inner // 8)), "weight_scale": (out, groups), "weight_shape": (2,)}
        if not scheme.symmetric:
            shapes["weight_zero_point"] = (-(-out // 8), groups)
    return {f"{name}.{suffix}": shape for suffix, shape in shapes.items()}


def _nf4_shapes(name: str, size: int, found: Shapes, block: int = 64, nested_block: int = 256) -> Shapes:
    blocks = -(-size // block)
    state = f"{name}.weight.quant_state.bitsandbytes__nf4"
    shapes = {
        f"{name}.weight": (-(-size // 2), 1),
        f"{name}.weight.absmax": (blocks,),
        f"{name}.weight.quant_map": (16,),
        state: found.get(state, (0,)),
    }
    if f"{name}.weight.nested_absmax" in found:
        shapes[f"{name}.weight.nested_absmax"] = (-(-blocks // nested_block),)
        shapes[f"{name}.weight.nested_quant_map"] = (256,)
    return shapes


def read_weight(scheme: Scheme, name: str, get: Get, stored: Shapes) -> torch.Tensor | Int4Weight | NF4Weight:
    """A linear layer's weight as it is stored: ``get`` gives a tensor by name, ``stored`` what there is."""
    if f"{name}.weight_packed" in stored:
        return _read_packed(scheme, name, get)
    if f"{name}.qweight" in stored:
        return _read_autoawq(name, get)
    if f"{name}.weight.absmax" in stored:
        return _read_nf4(name, get)
    return get(f"{name}.weight")


def dense(weight: torch.Tensor | Int4Weight | NF4Weight) -> torch.Tensor:
    """The plain matrix (out, in) of a weight."""
    return weight if isinstance(weight, torch.Tensor) else weight.dequantize()


def _nibbles(words: torch.Tensor) -> torch.Tensor:
    """int32 (..., n) -> uint8 (..., 8 n), lowest nibble first."""
    shifts = torch.arange(0, 32, 4, device=words.device, dtype=torch.int32)
    return ((words[..., None] >> shifts) & 15).to(torch.uint8).flatten(-2)


def _read_packed(scheme: Scheme, name: str, get: Get) -> Int4Weight:
    """compressed-tensors: signed values + 8, eight per word along the inputs; zero points along the outputs."""
    out, inner = (int(size) for size in get(f"{name}.weight_shape"))
    scales = get(f"{name}.weight_scale")
    codes = _nibbles(get(f"{name}.weight_packed"))[:, :inner]
    if scheme.symmetric:
        zeros = torch.full(scales.shape, 8, dtype=torch.uint8, device=scales.device)
    else:
        zeros = _nibbles(get(f"{name}.weight_zero_point").T).T[:out]
    return Int4Weight(codes, scales, zeros.contiguous())


def _read_autoawq(name: str, get: Get) -> Int4Weight:
    """AutoAWQ: unsigned values, eight per word along the outputs in its own order, everything transposed."""
    order = torch.tensor(_AUTOAWQ_ORDER)

    def columns(words: torch.Tensor) -> torch.Tensor:
        return _nibbles(words).unflatten(1, (-1, 8))[:, :, order.to(words.device)].flatten(1).T.contiguous()

    codes, zeros = columns(get(f"{name}.qweight")), columns(get(f"{name}.qzeros"))
    return Int4Weight(codes, get(f"{name}.scales").T.contiguous(), zeros)


def _read_nf4(name: str, get: Get) -> NF4Weight:
    """bitsandbytes: two codes a byte, the first in the high nibble; scales themselves 8-bit when nested."""
    state = json.loads(bytes(get(f"{name}.weight.quant_state.bitsandbytes__nf4").cpu().tolist()))
    packed = get(f"{name}.weight").flatten()
    codes = torch.stack([packed >> 4, packed & 15], dim=1).flatten()
    absmax = get(f"{name}.weight.absmax")
    if "nested_blocksize" in state:
        nested = get(f"{name}.weight.nested_absmax").repeat_interleave(state["nested_blocksize"])
        quantised = get(f"{name}.weight.nested_quant_map")[absmax.int()]
        absmax = quantised * nested[: absmax.numel()] + state["nested_offset"]
    table = get(f"{name}.weight.quant_map")
    return NF4Weight(codes.view(state["shape"]), table, absmax.float(), state["blocksize"])
