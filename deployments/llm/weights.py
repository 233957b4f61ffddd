"""A model folder's tensors, read one by one to where they are needed.

Nothing is held twice: a matrix leaves the file, is brought to the form its kernel multiplies, and the next one
follows. Query, key and value projections are joined, as are gate and up: fewer and larger multiplications.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import torch
from safetensors import safe_open

from deployments.checkpoint import Shapes, extras, mismatches, read_json, safetensors_files, safetensors_shapes
from deployments.errors import CheckpointError
from deployments.llm.quantization import Int4Weight, NF4Weight, Scheme, dense, read_weight, scheme_of, stored_shapes
from deployments.llm.step1 import Step1Config, Step1ForCausalLM

Matmul = Callable[[torch.Tensor], torch.Tensor]
"""Activations (rows, in) -> (rows, out)."""
Weight = torch.Tensor | Int4Weight | NF4Weight
Place = Callable[[list[Weight]], Matmul]
"""Makes one multiplication of weights whose outputs are joined."""

_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head")


@dataclass(frozen=True)
class Layer:
    """One decoder layer; norms are (hidden,)."""

    input_norm: torch.Tensor
    qkv: Matmul
    o: Matmul
    post_norm: torch.Tensor
    gate_up: Matmul
    down: Matmul


@dataclass(frozen=True)
class Weights:
    """The whole model: embedding and head (vocab, hidden), final norm (hidden,)."""

    config: Step1Config
    embedding: torch.Tensor
    layers: list[Layer]
    norm: torch.Tensor
    head: torch.Tensor


class TensorFiles:
    """A folder's safetensors as one mapping, open while the context lasts. Raises CheckpointError on bad files."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.shapes: Shapes = safetensors_shapes(folder)
        self._stack = ExitStack()
        self._owner = {}
        for file in safetensors_files(folder):
            handle = self._stack.enter_context(safe_open(file, framework="pt", device=str(device)))
            self._owner.update(dict.fromkeys(handle.keys(), handle))

    def __enter__(self) -> "TensorFiles":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._owner.clear()
        self._stack.close()

    def get(self, name: str) -> torch.Tensor:
        """One tensor, on the device."""
        tensor: torch.Tensor = self._owner[name].get_tensor(name)
        return tensor


def read_config(folder: Path) -> tuple[Step1Config, Scheme]:
    """Sizes and storage scheme from config.json. Raises CheckpointError."""
    path = folder / "config.json"
    content = read_json(path)
    if content.get("model_type") != "step1":
        raise CheckpointError([f"{path}: model_type is {content.get('model_type')!r}, expected 'step1'"])
    scheme = scheme_of(content, str(path))
    known = {key: value for key, value in content.items() if key not in ("quantization_config", "auto_map")}
    try:
        return Step1Config(**known), scheme
    except Exception as error:  # transformers validates with exceptions of its own
        raise CheckpointError([f"{path}: not a step1 configuration: {error}"]) from error


def expected_shapes(config: Step1Config, scheme: Scheme, found: Shapes) -> Shapes:
    """Every tensor a folder must hold, from the module's own names and shapes (built without data)."""
    with torch.device("meta"):
        plain = {name: tuple(value.shape) for name, value in Step1ForCausalLM(config).state_dict().items()}
    shapes: Shapes = {}
    for full_name, shape in plain.items():
        name = full_name.removesuffix(".weight")
        if name.rsplit(".", 1)[-1] in _LINEARS:
            shapes |= stored_shapes(scheme, name, shape[0], shape[1], found)
        else:
            shapes[full_name] = shape
    return shapes


def compare(folder: Path) -> tuple[list[str], list[str]]:
    """Problems (missing or misshapen tensors) and extra names of a folder. Raises CheckpointError."""
    config, scheme = read_config(folder)
    found = safetensors_shapes(folder)
    expected = expected_shapes(config, scheme, found)
    return mismatches(folder, expected, found), extras(expected, found)


def load(folder: Path, device: torch.device, dtype: torch.dtype, place: Place) -> Weights:
    """Read a folder; ``place`` decides how linear layers are kept and multiplied. Raises CheckpointError."""
    config, scheme = read_config(folder)
    problems, _ = compare(folder)
    if problems:
        raise CheckpointError(problems)
    with TensorFiles(folder, device) as files:

        def join(layer: str, *names: str) -> Matmul:
            return place([read_weight(scheme, f"{layer}.{name}", files.get, files.shapes) for name in names])

        def plain(name: str) -> torch.Tensor:
            return dense(read_weight(scheme, name, files.get, files.shapes)).to(dtype)

        layers = []
        for index in range(config.num_hidden_layers):
            layer = f"model.layers.{index}"
            attention, mlp = f"{layer}.self_attn", f"{layer}.mlp"
            layers.append(
                Layer(
                    input_norm=plain(f"{layer}.input_layernorm"),
                    qkv=join(attention, "q_proj", "k_proj", "v_proj"),
                    o=join(attention, "o_proj"),
                    post_norm=plain(f"{layer}.post_attention_layernorm"),
                    gate_up=join(mlp, "gate_proj", "up_proj"),
                    down=join(mlp, "down_proj"),
                )
            )
        return Weights(config, plain("model.embed_tokens"), layers, plain("model.norm"), plain("lm_head"))


class Dense:
    """A plain matrix (out, in) times activations (rows, in)."""

    def __init__(self, matrix: torch.Tensor) -> None:
        self.matrix = matrix

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(x, self.matrix)


def place_dense(dtype: torch.dtype) -> Place:
    """Every weight as a plain matrix: what a CPU multiplies fastest, quantised variants included."""

    def place(weights: list[Weight]) -> Matmul:
        return Dense(torch.cat([dense(weight).to(dtype) for weight in weights]))

    return place
