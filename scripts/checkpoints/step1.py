"""The language model's folder: config.json, bf16 weights in shards, tokenizer.

Like the published folder, config.json does not say whether embeddings are tied; they are not.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file

from deployments.checkpoint import Shapes
from scripts.checkpoints import tokenizer
from scripts.checkpoints.presets import Step1Sizes
from scripts.checkpoints.weights import Source

HEAD_GAIN = 3.0  # logits of standard deviation 3: sampling prefers some codes, as a trained model does


def write(folder: Path, sizes: Step1Sizes, seed: int, device: str) -> None:
    """Everything of the base folder but CosyVoice-300M-25Hz."""
    folder.mkdir(parents=True, exist_ok=True)
    _, vocab = tokenizer.write(folder, sizes)
    (folder / "config.json").write_text(json.dumps(_config(sizes, vocab), indent=2), encoding="utf-8")
    _write_shards(folder, shapes(sizes, vocab), sizes.shard_bytes, Source(seed, "model.safetensors", device))


def shapes(sizes: Step1Sizes, vocab: int) -> Shapes:
    """Every tensor of the model; heads are hidden / heads wide."""
    found: Shapes = {"model.embed_tokens.weight": (vocab, sizes.hidden)}
    for index in range(sizes.layers):
        found |= _layer(f"model.layers.{index}", sizes)
    return found | {"model.norm.weight": (sizes.hidden,), "lm_head.weight": (vocab, sizes.hidden)}


def _layer(name: str, sizes: Step1Sizes) -> Shapes:
    hidden, keys = sizes.hidden, sizes.hidden // sizes.heads * sizes.groups
    return {
        f"{name}.self_attn.q_proj.weight": (hidden, hidden),
        f"{name}.self_attn.k_proj.weight": (keys, hidden),
        f"{name}.self_attn.v_proj.weight": (keys, hidden),
        f"{name}.self_attn.o_proj.weight": (hidden, hidden),
        f"{name}.mlp.gate_proj.weight": (sizes.ffn, hidden),
        f"{name}.mlp.up_proj.weight": (sizes.ffn, hidden),
        f"{name}.mlp.down_proj.weight": (hidden, sizes.ffn),
        f"{name}.input_layernorm.weight": (hidden,),
        f"{name}.post_attention_layernorm.weight": (hidden,),
    }


def _config(sizes: Step1Sizes, vocab: int) -> dict[str, object]:
    classes = {
        "AutoConfig": "configuration_step1.Step1Config",
        "AutoModelForCausalLM": "modeling_step1.Step1ForCausalLM",
    }
    return {
        "architectures": ["Step1ForCausalLM"],
        "auto_map": classes,
        "model_type": "step1",
        "bos_token_id": 1,
        "eos_token_id": 3,
        "pad_token_id": 0,
        "hidden_size": sizes.hidden,
        "intermediate_size": sizes.ffn,
        "num_attention_heads": sizes.heads,
        "num_attention_groups": sizes.groups,
        "num_hidden_layers": sizes.layers,
        "vocab_size": vocab,
        "rms_norm_eps": 1e-05,
        "max_seq_len": 32768,
        "torch_dtype": "bfloat16",
        "use_cache": True,
    }


def _write_shards(folder: Path, expected: Shapes, limit: int, source: Source) -> None:
    """model.safetensors, or numbered shards of at most ``limit`` bytes and their index; holds one shard at a time."""
    shards = _split(expected, limit)
    weights = source.state(expected, torch.bfloat16)
    names = [_shard_name(number, len(shards)) for number in range(len(shards))]
    for name, shard in zip(names, shards, strict=True):
        save_file(dict(_scaled(next(weights) for _ in shard)), folder / name, metadata={"format": "pt"})
    if len(shards) > 1:
        weight_map = {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
        index = {"metadata": {"total_size": sum(map(_bytes, expected.values()))}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")


def _scaled(weights: Iterator[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
    for name, tensor in weights:
        yield name, tensor * HEAD_GAIN if name == "lm_head.weight" else tensor


def _split(expected: Shapes, limit: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    size = 0
    for name, shape in expected.items():
        if shards[-1] and size + _bytes(shape) > limit:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += _bytes(shape)
    return shards


def _shard_name(number: int, count: int) -> str:
    return "model.safetensors" if count == 1 else f"model-{number + 1:05d}-of-{count:05d}.safetensors"


def _bytes(shape: tuple[int, ...]) -> int:
    return 2 * torch.Size(shape).numel()
