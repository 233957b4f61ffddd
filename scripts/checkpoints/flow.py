"""Names and shapes of flow.pt, and the mel level that its random weights aim at."""

import torch

from deployments.checkpoint import Shapes
from deployments.types import AUDIO_CODES
from scripts.checkpoints.presets import FlowSizes
from scripts.checkpoints.weights import Source

MELS = 80
SPEAKER = 192
VOCABULARY = AUDIO_CODES + 1  # 1024 pads VQ02's rows
LOOK_AHEAD = 3
UP_KERNEL = 5
TIME_FEATURES = 256
MODULATIONS = 9
MEL_LEVEL = -5.0  # natural log: that of clear speech


def state(sizes: FlowSizes, source: Source) -> dict[str, torch.Tensor]:
    """flow.pt. The estimator's velocity is MEL_LEVEL on average, so that noise flows to mels of speech-like level."""
    weights = dict(source.state(shapes(sizes)))
    weights["decoder.estimator.final_layer.linear.bias"] += MEL_LEVEL
    return weights


def shapes(sizes: FlowSizes) -> Shapes:
    """Every tensor of flow.pt."""
    width = sizes.width
    return {
        "input_embedding.embedding.weight": (VOCABULARY, width // 2),
        **_linear("spk_embed_affine_layer", MELS, SPEAKER),
        **_embed("encoder.embed", width),
        **_norm("encoder.after_norm", width),
        **_conv("encoder.pre_lookahead_layer.conv1", width, LOOK_AHEAD + 1),
        **_conv("encoder.pre_lookahead_layer.conv2", width, 3),
        **_blocks("encoder.encoders", sizes.blocks, sizes),
        **_conv("encoder.up_layer.conv", width, UP_KERNEL),
        **_embed("encoder.up_embed", width),
        **_blocks("encoder.up_encoders", sizes.up_blocks, sizes),
        **_linear("encoder_proj", MELS, width),
        **_estimator(sizes),
    }


def _blocks(name: str, count: int, sizes: FlowSizes) -> Shapes:
    found: Shapes = {}
    for index in range(count):
        found |= _conformer_block(f"{name}.{index}", sizes)
    return found


def _conformer_block(name: str, sizes: FlowSizes) -> Shapes:
    width, attention = sizes.width, f"{name}.self_attn"
    position = (sizes.heads, width // sizes.heads)
    found: Shapes = {f"{attention}.pos_bias_u": position, f"{attention}.pos_bias_v": position}
    for part in ("linear_q", "linear_k", "linear_v", "linear_out"):
        found |= _linear(f"{attention}.{part}", width, width)
    return {
        **found,
        f"{attention}.linear_pos.weight": (width, width),
        **_linear(f"{name}.feed_forward.w_1", sizes.ffn, width),
        **_linear(f"{name}.feed_forward.w_2", width, sizes.ffn),
        **_norm(f"{name}.norm_ff", width),
        **_norm(f"{name}.norm_mha", width),
    }


def _estimator(sizes: FlowSizes) -> Shapes:
    name, width = "decoder.estimator", sizes.dit_width
    found = {
        **_linear(f"{name}.t_embedder.mlp.0", width, TIME_FEATURES),
        **_linear(f"{name}.t_embedder.mlp.2", width, width),
        **_linear(f"{name}.in_proj", width, 4 * MELS),
    }
    for index in range(sizes.dit_depth):
        found |= _dit_block(f"{name}.blocks.{index}", sizes)
    return {
        **found,
        **_linear(f"{name}.final_layer.adaLN_modulation.1", 2 * width, width),
        **_linear(f"{name}.final_layer.linear", MELS, width),
    }


def _dit_block(name: str, sizes: FlowSizes) -> Shapes:
    width, inner = sizes.dit_width, sizes.dit_heads * sizes.dit_head_dim
    found: Shapes = {}
    for part in ("to_q", "to_k", "to_v"):
        found |= _linear(f"{name}.attn.{part}", inner, width)
    return {
        **found,
        **_norm(f"{name}.attn.q_norm", sizes.dit_head_dim),
        **_norm(f"{name}.attn.k_norm", sizes.dit_head_dim),
        **_linear(f"{name}.attn.proj", width, inner),
        **_linear(f"{name}.mlp.fc1", 4 * width, width),
        **_linear(f"{name}.mlp.fc2", width, 4 * width),
        **_conv(f"{name}.conv.block.1", width, 3),
        **_norm(f"{name}.conv.block.3", width),
        **_conv(f"{name}.conv.block.6", width, 3),
        **_linear(f"{name}.adaLN_modulation.1", MODULATIONS * width, width),
    }


def _embed(name: str, width: int) -> Shapes:
    return {**_linear(f"{name}.out.0", width, width), **_norm(f"{name}.out.1", width)}


def _linear(name: str, outputs: int, inputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _conv(name: str, width: int, kernel: int) -> Shapes:
    return {f"{name}.weight": (width, width, kernel), f"{name}.bias": (width,)}


def _norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}
