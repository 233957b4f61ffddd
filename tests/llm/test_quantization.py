"""Quantised folders are written by the libraries that define the formats, and read by ours."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from deployments.errors import CheckpointError
from deployments.llm.loading import Options, load_weights, make_runner
from deployments.llm.model import Chunk
from deployments.llm.quantization import scheme_of
from deployments.llm.runner import Vocabulary
from deployments.llm.step1 import Step1Config, Step1ForCausalLM
from deployments.llm.weights import compare
from scripts.quantize import write_awq, write_bnb

IDS = torch.arange(5, 45)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    config = Step1Config(256, 384, 4, 2, 2, 5200)
    Step1ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("quantised")
    write_bnb(base, root / "nf4")
    write_awq(base, root / "symmetric")
    write_awq(base, root / "asymmetric", symmetric=False)
    write_autoawq(root / "asymmetric", root / "autoawq")
    return {path.name: path for path in root.iterdir()}


def unpack(words: torch.Tensor) -> torch.Tensor:
    """Eight unsigned 4-bit numbers of each 32-bit word along the last dimension, lowest first."""
    wide = words.long() & 0xFFFFFFFF
    return torch.stack([(wide // 16**place) % 16 for place in range(8)], dim=-1).flatten(-2)


def write_autoawq(packed: Path, out: Path) -> None:
    """The asymmetric folder's numbers in AutoAWQ's GEMM layout: words of columns 0 2 4 6 1 3 5 7, transposed."""
    tensors = load_file(packed / "model.safetensors")
    written: dict[str, torch.Tensor] = {}

    def words(numbers: torch.Tensor) -> torch.Tensor:
        eights = numbers.unflatten(-1, (-1, 8))[..., [0, 2, 4, 6, 1, 3, 5, 7]]
        wide = sum(eights[..., place] * 16**place for place in range(8))
        return (wide - (wide >= 2**31).long() * 2**32).int()

    for name, tensor in tensors.items():
        stem = name.removesuffix(".weight_packed")
        if stem != name:
            scale, zero = tensors[f"{stem}.weight_scale"], unpack(tensors[f"{stem}.weight_zero_point"].T).T
            written[f"{stem}.qweight"] = words(unpack(tensor).T)
            written[f"{stem}.qzeros"] = words(zero.T)
            written[f"{stem}.scales"] = scale.T.contiguous()
        elif name.endswith(("norm.weight", "tokens.weight", "lm_head.weight")):
            written[name] = tensor
    out.mkdir()
    save_file({name: tensor.contiguous() for name, tensor in written.items()}, out / "model.safetensors")
    config = json.loads((packed / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "awq",
        "version": "gemm",
        "bits": 4,
        "group_size": 128,
        "zero_point": True,
    }
    (out / "config.json").write_text(json.dumps(config))


def plain_matrix(kind: str, tensors: dict[str, torch.Tensor], name: str, shape: torch.Size) -> torch.Tensor:
    """A matrix (out, in) from its stored tensors, by the definition of each format."""
    if kind == "nf4":
        return plain_nf4(tensors, name, shape)
    if kind == "autoawq":
        codes, zeros = (
            unpack(tensors[f"{name}.{part}"]).unflatten(-1, (-1, 8))[..., [0, 4, 1, 5, 2, 6, 3, 7]].flatten(-2).T
            for part in ("qweight", "qzeros")
        )
        scale = tensors[f"{name}.scales"].T
    else:
        codes, scale = unpack(tensors[f"{name}.weight_packed"]), tensors[f"{name}.weight_scale"]
        zeros = torch.full(scale.shape, 8)
        if kind == "asymmetric":
            zeros = unpack(tensors[f"{name}.weight_zero_point"].T).T
    columns = torch.arange(shape[1]) // 128
    return (codes - zeros[:, columns]) * scale.float()[:, columns]


def plain_nf4(tensors: dict[str, torch.Tensor], name: str, shape: torch.Size) -> torch.Tensor:
    part = {key.removeprefix(f"{name}.weight."): value for key, value in tensors.items() if f"{name}.weight." in key}
    state = json.loads(part["quant_state.bitsandbytes__nf4"].numpy().tobytes())
    packed = tensors[f"{name}.weight"].flatten().long()
    codes = torch.stack([packed // 16, packed % 16], 1).flatten()
    blocks = torch.arange(len(part["absmax"]))
    scale = part["nested_quant_map"][part["absmax"].long()] * part["nested_absmax"][blocks // 256]
    scale = scale + state["nested_offset"]
    values = part["quant_map"][codes] * scale[torch.arange(len(codes)) // 64]
    return values.view(shape)


def plain_model(kind: str, folder: Path, base: Path) -> Step1ForCausalLM:
    tensors = load_file(folder / "model.safetensors")
    model = Step1ForCausalLM(Step1Config(256, 384, 4, 2, 2, 5200)).eval()
    state = {}
    for name, value in load_file(base / "model.safetensors").items():
        quantised = "_proj" in name
        stem = name.removesuffix(".weight")
        state[name] = plain_matrix(kind, tensors, stem, value.shape) if quantised else value.float()
    model.load_state_dict(state)
    return model


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["nf4", "symmetric", "asymmetric", "autoawq"])
def test_logits_equal_those_of_independently_dequantised_weights(folders: dict, base: Path, kind: str):
    expected = plain_model(kind, folders[kind], base)(IDS[None]).logits[0]
    weights = load_weights(folders[kind], CPU, torch.float32)
    runner = make_runner(weights, Vocabulary(5, (3, 2)), Options(slots=1, max_length=64))
    hidden = runner.model.prefill(IDS, Chunk(torch.tensor([0]), torch.tensor([0])))
    torch.testing.assert_close(hidden @ weights.head.T, expected, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_nf4_is_what_bitsandbytes_makes_of_it(folders: dict):
    from bitsandbytes.functional import QuantState, dequantize_4bit

    tensors = load_file(folders["nf4"] / "model.safetensors")
    name = "model.layers.0.mlp.down_proj"
    packed = tensors[f"{name}.weight"]
    parts = {key: value for key, value in tensors.items() if key.startswith(f"{name}.weight.")}
    theirs = dequantize_4bit(packed, QuantState.from_dict(parts, device=CPU))
    ours = plain_nf4(tensors, name, torch.Size([256, 384]))
    torch.testing.assert_close(ours.bfloat16(), theirs.bfloat16(), rtol=1e-2, atol=1e-5)


@torch.inference_mode()
def test_variants_stay_near_the_base(folders: dict, base: Path):
    def matrix(folder: Path) -> torch.Tensor:
        return load_weights(folder, CPU, torch.float32).layers[1].down.matrix

    exact = matrix(base)
    drift = {kind: ((matrix(folder) - exact).norm() / exact.norm()).item() for kind, folder in folders.items()}
    assert all(0.02 < value < 0.16 for value in drift.values()), drift
    assert drift["autoawq"] == pytest.approx(drift["asymmetric"], rel=1e-3)


@pytest.mark.parametrize("kind", ["nf4", "symmetric", "asymmetric", "autoawq"])
def test_a_written_folder_holds_every_tensor_and_no_other(folders: dict, kind: str):
    assert compare(folders[kind]) == ([], [])


PACKED = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "config_groups": {
        "group_0": {
            "weights": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128, "symmetric": True}
        }
    },
}


def packed_with(**changes: object) -> dict:
    weights = {**PACKED["config_groups"]["group_0"]["weights"], **changes}
    return {**PACKED, "config_groups": {"group_0": {"weights": weights}}}


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"quant_method": "gptq"}, "'gptq' is not supported"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "only NF4"),
        ({**PACKED, "format": "marlin-24"}, "'marlin-24' is not supported"),
        (packed_with(num_bits=8), "8-bit int by group"),
        (packed_with(strategy="channel"), "4-bit int by channel"),
        (packed_with(actorder="group"), "activation order"),
        ({"quant_method": "compressed-tensors"}, "incomplete"),
        ({"quant_method": "awq", "version": "gemv", "bits": 4}, "'gemv'"),
    ],
)
def test_other_formats_are_refused_by_name(declared: dict, message: str):
    with pytest.raises(CheckpointError, match=message):
        scheme_of({"quantization_config": declared}, "config.json")
