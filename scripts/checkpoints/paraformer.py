"""The VQ02 folder: a FunASR ParaformerStreaming model and the k-means codebook."""

import json
from typing import Any

import numpy as np
import torch
import yaml

from deployments.checkpoint import Layout, Shapes
from deployments.types import VQ02_CODES
from scripts.checkpoints.presets import ParaformerSizes
from scripts.checkpoints.weights import Source

FEATURES = 560  # 80 mel bands x 7 stacked frames
FSMN_KERNEL = 11


def write(layout: Layout, sizes: ParaformerSizes, seed: int, device: str) -> None:
    """config.yaml, model.pt, am.mvn and tokens.json of the model, and linguistic_tokenizer.npy beside it."""
    folder = layout.paraformer
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(_config(sizes), sort_keys=False), encoding="utf-8")
    weights = Source(seed, "model.pt", device).state(encoder_shapes(sizes) | _other_shapes(sizes))
    torch.save(dict(weights), folder / "model.pt")
    (folder / "am.mvn").write_text(_cmvn(Source(seed, "am.mvn")), encoding="utf-8")
    (folder / "tokens.json").write_text(json.dumps(_tokens(sizes.characters)), encoding="utf-8")
    codebook = Source(seed, "linguistic_tokenizer.npy").normal(VQ02_CODES, sizes.width)
    np.save(layout.codebook, codebook.numpy())


def encoder_shapes(sizes: ParaformerSizes) -> Shapes:
    """Names and shapes of the encoder, in FunASR's spelling: the first block takes the 560 features."""
    shapes: Shapes = {}
    for index in range(sizes.blocks):
        name = "encoder.encoders0.0" if index == 0 else f"encoder.encoders.{index - 1}"
        shapes |= _block_shapes(name, FEATURES if index == 0 else sizes.width, sizes)
    return shapes | _norm("encoder.after_norm", sizes.width)


def _block_shapes(name: str, inputs: int, sizes: ParaformerSizes) -> Shapes:
    width = sizes.width
    return {
        **_linear(f"{name}.self_attn.linear_out", width, width),
        **_linear(f"{name}.self_attn.linear_q_k_v", 3 * width, inputs),
        f"{name}.self_attn.fsmn_block.weight": (width, 1, FSMN_KERNEL),
        **_linear(f"{name}.feed_forward.w_1", sizes.ffn, width),
        **_linear(f"{name}.feed_forward.w_2", width, sizes.ffn),
        **_norm(f"{name}.norm1", inputs),
        **_norm(f"{name}.norm2", width),
    }


def _other_shapes(sizes: ParaformerSizes) -> Shapes:
    """Parts of the speech recogniser around the encoder that the file holds too and the tokenizer never uses."""
    return {
        "decoder.embed.0.weight": (sizes.characters, sizes.width),
        **_linear("decoder.output_layer", sizes.characters, sizes.width),
        "predictor.cif_conv1d.weight": (sizes.width, sizes.width, 3),
        "predictor.cif_conv1d.bias": (sizes.width,),
        **_linear("predictor.cif_output", 1, sizes.width),
    }


def _linear(name: str, outputs: int, inputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _config(sizes: ParaformerSizes) -> dict[str, Any]:
    common = {"attention_heads": sizes.heads, "linear_units": sizes.ffn, "kernel_size": FSMN_KERNEL}
    dropout = dict.fromkeys(("dropout_rate", "positional_dropout_rate"), 0.1)
    return {
        "model": "ParaformerStreaming",
        "model_conf": {"ctc_weight": 0.0, "lsm_weight": 0.1, "predictor_weight": 1.0, "sampling_ratio": 0.75},
        "encoder": "SANMEncoderChunkOpt",
        "encoder_conf": {
            "output_size": sizes.width,
            **common,
            "num_blocks": sizes.blocks,
            **dropout,
            "attention_dropout_rate": 0.1,
            "input_layer": "pe_online",
            "pos_enc_class": "SinusoidalPositionEncoder",
            "normalize_before": True,
            "sanm_shfit": 0,
            "selfattention_layer_type": "sanm",
        },
        "decoder": "ParaformerSANMDecoder",
        "decoder_conf": {**common, "num_blocks": 16, "att_layer_num": 16, "sanm_shfit": 5},
        "predictor": "CifPredictorV2",
        "predictor_conf": {"idim": sizes.width, "threshold": 1.0, "l_order": 1, "r_order": 1},
        "frontend": "WavFrontendOnline",
        "frontend_conf": {
            "fs": 16000,
            "window": "hamming",
            "n_mels": 80,
            "frame_length": 25,
            "frame_shift": 10,
            "lfr_m": 7,
            "lfr_n": 6,
        },
        "tokenizer": "CharTokenizer",
        "tokenizer_conf": {"unk_symbol": "<unk>", "split_with_space": True},
    }


def _cmvn(source: Source) -> str:
    """Kaldi's text form of the normalisation: x -> (x + shift) * scale, of the size that speech has."""
    shift = " ".join(f"{value:.6f}" for value in source.normal(FEATURES, mean=-8.0, std=0.5).tolist())
    scale = " ".join(f"{value:.6f}" for value in source.normal(FEATURES, mean=0.16, std=0.01).tolist())
    size = f"{FEATURES} {FEATURES}"
    return (
        f"<Nnet> \n<Splice> {size}\n[ 0 ]\n"
        f"<AddShift> {size} \n<LearnRateCoef> 0 [ {shift} ]\n"
        f"<Rescale> {size} \n<LearnRateCoef> 0 [ {scale} ]\n</Nnet> \n"
    )


def _tokens(characters: int) -> list[str]:
    special = ["<blank>", "<s>", "</s>"]
    ideographs = [chr(0x4E00 + index) for index in range(characters - len(special) - 1)]
    return [*special, *ideographs, "<unk>"]
