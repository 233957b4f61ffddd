"""The published checkpoint's layout on disk, and reading its files without trusting them.

Nothing a checkpoint names is ever imported or executed: YAML through a safe loader that turns ``!new:x.y.Z``
nodes into plain mappings, pickles with ``weights_only``, never the Python files that lie beside the weights.
Each room says which tensors it expects; the comparison and the reading of names and shapes are here.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
import torch
import yaml
from safetensors import SafetensorError, safe_open

from deployments.errors import CheckpointError

PARAFORMER = "speech_paraformer-large_asr_nat-zh-cantonese-en-16k-vocab8501-online"
VARIANT_FOLDERS = {
    "base": "Step-Audio-EditX",
    "bnb": "Step-Audio-EditX-bnb-4bit",
    "awq": "Step-Audio-EditX-AWQ-4bit",
}
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Layout:
    """Where the published files lie under a models folder."""

    root: Path

    @property
    def tokenizer(self) -> Path:
        return self.root / "Step-Audio-Tokenizer"

    @property
    def codebook(self) -> Path:
        return self.tokenizer / "linguistic_tokenizer.npy"

    @property
    def s3(self) -> Path:
        return self.tokenizer / "speech_tokenizer_v1.onnx"

    @property
    def paraformer(self) -> Path:
        return self.tokenizer / "dengcunqin" / PARAFORMER

    def variant(self, name: str) -> Path:
        """The language model's folder of a variant: base, bnb or awq."""
        return self.root / VARIANT_FOLDERS[name]

    def variants(self) -> list[str]:
        """The variants whose folders are there."""
        return [name for name in VARIANT_FOLDERS if self.variant(name).is_dir()]

    @property
    def cosyvoice(self) -> Path:
        """The vocoder's folder: every variant folder carries one, the first that does is used."""
        folders = [self.variant(name) / "CosyVoice-300M-25Hz" for name in VARIANT_FOLDERS]
        return next((folder for folder in folders if folder.is_dir()), folders[0])


@dataclass(frozen=True)
class Report:
    """What a room found in a checkpoint: fatal problems, and notes worth logging (extra tensors, say)."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class _PlainLoader(yaml.SafeLoader):
    """SafeLoader that reads HyperPyYAML's ``!new:`` and ``!name:`` nodes as the mappings under them."""


def _plain(loader: yaml.SafeLoader, _suffix: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return loader.construct_scalar(node) if isinstance(node, yaml.ScalarNode) else None


for _tag in ("!new:", "!name:", "!apply:", "!ref"):
    _PlainLoader.add_multi_constructor(_tag, _plain)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file as plain mappings. Raises CheckpointError if it is missing or not a mapping."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_PlainLoader)
    except OSError as error:
        raise CheckpointError([f"{path}: {error.strerror}"]) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CheckpointError([f"{path}: not readable as YAML: {_one_line(error)}"]) from error
    if not isinstance(content, dict):
        raise CheckpointError([f"{path}: not a mapping"])
    return content


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises CheckpointError if it is missing or something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError([f"{path}: {error.strerror}"]) from error
    except ValueError as error:
        raise CheckpointError([f"{path}: not readable as JSON: {_one_line(error)}"]) from error
    if not isinstance(content, dict):
        raise CheckpointError([f"{path}: not an object"])
    return content


def load_pickle(path: Path, map_location: str = "cpu") -> dict[str, torch.Tensor]:
    """A torch state dict, by name. Only tensors are unpickled (``weights_only``); anything else is refused.

    ``map_location="meta"`` reads names and shapes alone. A dict nested under "state_dict" or "model" is unwrapped.
    """
    try:
        content = torch.load(path, map_location=map_location, weights_only=True, mmap=map_location != "meta")
    except OSError as error:
        raise CheckpointError([f"{path}: {error.strerror or _one_line(error)}"]) from error
    except Exception as error:  # torch raises pickle, zip, runtime and type errors alike for a bad file
        raise CheckpointError([f"{path}: not a file of weights: {_one_line(error)}"]) from error
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise CheckpointError([f"{path}: not a file of weights: holds more than named tensors"])
    return content


def pickle_shapes(path: Path) -> Shapes:
    """Names and shapes in a torch state dict, without its data."""
    return {name: tuple(value.shape) for name, value in load_pickle(path, "meta").items()}


def safetensors_files(folder: Path) -> list[Path]:
    """The weight files of a model folder: those the index names, or every ``model*.safetensors``."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        files = sorted({folder / name for name in read_json(index).get("weight_map", {}).values()})
    else:
        files = sorted(folder.glob("model*.safetensors"))
    missing = [f"{file}: missing" for file in files if not file.is_file()]
    if missing or not files:
        raise CheckpointError(missing or [f"{folder}/model.safetensors: missing"])
    return files


def safetensors_shapes(folder: Path) -> Shapes:
    """Names and shapes of every tensor in a model folder, from the files' headers."""
    shapes: Shapes = {}
    for file in safetensors_files(folder):
        try:
            with safe_open(file, framework="pt") as handle:
                shapes |= {name: tuple(handle.get_slice(name).get_shape()) for name in handle.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise CheckpointError([f"{file}: not a safetensors file: {_one_line(error)}"]) from error
    return shapes


def load_onnx(path: Path) -> onnx.ModelProto:
    """An ONNX graph with its weights. Raises CheckpointError if it is missing or not one."""
    try:
        model = onnx.load(path)
    except OSError as error:
        raise CheckpointError([f"{path}: {error.strerror or _one_line(error)}"]) from error
    except Exception as error:  # protobuf's DecodeError differs between its implementations
        raise CheckpointError([f"{path}: not an ONNX graph: {_one_line(error)}"]) from error
    if not model.graph.node:
        raise CheckpointError([f"{path}: not an ONNX graph: it has no nodes"])
    return model


def mismatches(path: Path, expected: Shapes, found: Shapes) -> list[str]:
    """Every expected tensor that is missing or has another shape, one line each."""
    problems = []
    for name, shape in expected.items():
        if name not in found:
            problems.append(f"{path}: tensor {name} {list(shape)} is missing")
        elif found[name] != shape:
            problems.append(f"{path}: tensor {name} has shape {list(found[name])}, expected {list(shape)}")
    return problems


def extras(expected: Shapes, found: Shapes) -> list[str]:
    """Names of tensors that a file holds beyond what is expected, sorted."""
    return sorted(found.keys() - expected.keys())


def missing_files(*paths: Path) -> list[str]:
    """A line for each path that is not a file."""
    return [f"{path}: missing" for path in paths if not path.is_file()]


def _one_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
