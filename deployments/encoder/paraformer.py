"""VQ02's network: FunASR's streaming Paraformer encoder, with its weights and our own feeding.

FunASR defines the modules and loads the weights strictly. The result is defined by feeding the network blocks of
nine rows, the five last of what came before and four new ones, whose keys and values join a cache in every layer.
``encode_streaming`` does just that, block after block, through FunASR's own code: it is the reference.
"""

import importlib
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deployments.checkpoint import extras, load_pickle, mismatches, pickle_shapes, read_yaml
from deployments.encoder.frontend import PIECE_ROWS, ROW_SIZE, STACK, STRIDE
from deployments.errors import CheckpointError

SanmEncoder = Any  # FunASR declares no types

PREFIX = "encoder."
OVERLAP = 5
LOOK_BACK = 4
SIZE_KEYS = ("output_size", "attention_heads", "linear_units", "num_blocks", "kernel_size", "sanm_shfit")
REQUIRED = {"input_layer": "pe_online", "selfattention_layer_type": "sanm", "normalize_before": True}
FRONTEND = {"fs": 16000, "window": "hamming", "n_mels": 80, "frame_length": 25, "frame_shift": 10}
FRONTEND |= {"lfr_m": STACK, "lfr_n": STRIDE}


def read_sizes(path: Path) -> dict[str, int]:
    """The encoder's sizes in FunASR's config.yaml. Raises CheckpointError for another kind of encoder."""
    config = read_yaml(path)
    encoder, frontend = config.get("encoder_conf"), config.get("frontend_conf")
    if not isinstance(encoder, dict) or not isinstance(frontend, dict):
        raise CheckpointError([f"{path}: lacks encoder_conf or frontend_conf"])
    problems = [f"{path}: encoder_conf lacks {key}, a number" for key in SIZE_KEYS if type(encoder.get(key)) is not int]
    problems += _others(path, "encoder_conf", encoder, REQUIRED) + _others(path, "frontend_conf", frontend, FRONTEND)
    if config.get("encoder") != "SANMEncoderChunkOpt":
        problems.append(f"{path}: encoder is {config.get('encoder')}, expected SANMEncoderChunkOpt")
    if problems:
        raise CheckpointError(problems)
    return {key: encoder[key] for key in SIZE_KEYS}


def build(sizes: dict[str, int], device: str = "meta") -> SanmEncoder:
    """FunASR's encoder with uninitialised weights; ``device="meta"`` allocates none."""
    with torch.device(device):
        options: dict[str, Any] = {"input_layer": "pe_online", "dropout_rate": 0.0, "attention_dropout_rate": 0.0}
        return _encoder_class()(ROW_SIZE, **sizes, **options).eval().requires_grad_(False)


def load(folder: Path) -> SanmEncoder:
    """The encoder of a FunASR folder, float32 on the CPU. Raises CheckpointError.

    model.pt holds the whole recogniser: its ``encoder.`` tensors are all required, the others left alone.
    """
    encoder = build(read_sizes(folder / "config.yaml"))
    state = load_pickle(folder / "model.pt")
    found = {name: value.float() for name, value in state.items() if name.startswith(PREFIX)}
    expected = expected_shapes(encoder)
    shapes = {name: tuple(value.shape) for name, value in found.items()}
    problems = mismatches(folder / "model.pt", expected, shapes)
    if problems:
        raise CheckpointError(problems)
    encoder.load_state_dict({name.removeprefix(PREFIX): found[name] for name in expected}, assign=True)
    return encoder


def check(folder: Path, notes: list[str]) -> list[str]:
    """What is wrong with model.pt, from its names and shapes alone. Adds a note on tensors that are not used."""
    path = folder / "model.pt"
    expected, found = expected_shapes(build(read_sizes(folder / "config.yaml"))), pickle_shapes(path)
    more = extras(expected, found)
    if more:
        notes.append(f"{path}: {len(more)} tensors not used, e.g. {more[0]}")
    return mismatches(path, expected, found)


def expected_shapes(encoder: SanmEncoder) -> dict[str, tuple[int, ...]]:
    """Names, as in model.pt, and shapes of the encoder's tensors."""
    return {PREFIX + name: tuple(value.shape) for name, value in encoder.state_dict().items()}


def encode_streaming(encoder: SanmEncoder, rows: Tensor) -> Tensor:
    """The reference: rows (n, 560) of one clip through the network, four at a time -> (n, output_size)."""
    cache = {
        "start_idx": 0,
        "chunk_size": [0, PIECE_ROWS, OVERLAP],
        "encoder_chunk_look_back": LOOK_BACK,
        "opt": None,
        "feats": rows.new_zeros(1, OVERLAP, ROW_SIZE),
        "tail_chunk": False,
    }
    outputs = [rows.new_zeros(0, encoder.output_size())]
    for piece in rows[None].split(PIECE_ROWS, dim=1) if len(rows) else ():
        length = torch.tensor([piece.shape[1]])
        output, _, _ = encoder.forward_chunk(piece.clone(), length, cache=cache)  # scaled in place: hence the clone
        outputs.append(output[0, -piece.shape[1] :])
    return torch.cat(outputs)


def _others(path: Path, where: str, found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    return [
        f"{path}: {where}.{key} is {found.get(key)}, expected {value}"
        for key, value in expected.items()
        if found.get(key) != value
    ]


def _encoder_class() -> Any:
    """FunASR's class, without running its package's own import, which loads every model it has (7 s, messages)."""
    name = "funasr"
    spec = importlib.util.find_spec(name)
    assert spec is not None and spec.submodule_search_locations is not None
    bare = name not in sys.modules
    if bare:
        package = types.ModuleType(name)
        package.__path__ = list(spec.submodule_search_locations)
        sys.modules[name] = package
    try:
        return importlib.import_module(f"{name}.models.scama.encoder").SANMEncoderChunkOpt
    finally:
        if bare:
            del sys.modules[name]
