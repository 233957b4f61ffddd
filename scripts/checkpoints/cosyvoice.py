"""The CosyVoice-300M-25Hz folder that every variant carries: cosyvoice.yaml, flow.pt, hift.pt, campplus.onnx."""

from collections.abc import Mapping
from pathlib import Path

import torch

from scripts.checkpoints import campplus, flow, hift
from scripts.checkpoints.presets import FlowSizes, HiftSizes, Preset
from scripts.checkpoints.weights import Source

FOLDER = "CosyVoice-300M-25Hz"
CLASSES = "stepvocoder.cosyvoice2"


def write(variant: Path, preset: Preset, seed: int, device: str) -> None:
    """The folder inside a variant's folder."""
    folder = variant / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    text = "\n".join(["sample_rate: 24000", *_flow(preset.flow), *_hift(preset.hift), *_mel()])
    (folder / "cosyvoice.yaml").write_text(text + "\n", encoding="utf-8")
    torch.save(flow.state(preset.flow, Source(seed, "flow.pt", device)), folder / "flow.pt")
    torch.save(hift.state(preset.hift, Source(seed, "hift.pt", device)), folder / "hift.pt")
    campplus.write(folder, preset.campplus, seed)


def _node(indent: int, key: str, path: str, entries: Mapping[str, object]) -> list[str]:
    """A ``!new:`` node and the plain entries under it."""
    lines = [f"{' ' * indent}{key}: !new:{CLASSES}.{path}"]
    return lines + [f"{' ' * (indent + 4)}{name}: {value}" for name, value in entries.items()]


def _flow(sizes: FlowSizes) -> list[str]:
    width = sizes.width
    top = {
        "input_size": width,
        "output_size": flow.MELS,
        "spk_embed_dim": flow.SPEAKER,
        "output_type": "'mel'",
        "vocab_size": flow.VOCABULARY,
    }
    embedding = {"vocab_size": flow.VOCABULARY, "input_size": width}
    return [
        *_node(0, "flow", "flow.flow.CausalMaskedDiffWithXvec", top),
        *_node(4, "input_embedding", "embedding.dual_codebook.DualCodebookEmbedding", embedding),
        *_node(4, "encoder", "transformer.upsample_encoder_v2.UpsampleConformerEncoderV2", _conformer(sizes)),
        *_node(4, "decoder", "flow.flow_matching.CausalConditionalCFM", {"inference_cfg_rate": 0.7}),
        *_node(8, "estimator", "flow.decoder_dit.DiT", _estimator(sizes)),
    ]


def _conformer(sizes: FlowSizes) -> dict[str, object]:
    return {
        "input_size": sizes.width,
        "output_size": sizes.width,
        "input_layer": "'linear'",
        "pre_lookahead_len": flow.LOOK_AHEAD,
        "num_blocks": sizes.blocks,
        "num_up_blocks": sizes.up_blocks,
        "up_stride": 2,
        "up_scale_factor": 2,
        "attention_heads": sizes.heads,
        "pos_enc_layer_type": "'rel_pos_espnet'",
        "selfattention_layer_type": "'rel_selfattn'",
        "key_bias": True,
        "linear_units": sizes.ffn,
        **dict.fromkeys(("dropout_rate", "positional_dropout_rate", "attention_dropout_rate"), 0.1),
        "normalize_before": True,
    }


def _estimator(sizes: FlowSizes) -> dict[str, object]:
    return {
        "in_channels": 4 * flow.MELS,
        "out_channels": flow.MELS,
        "mlp_ratio": 4.0,
        "depth": sizes.dit_depth,
        "num_heads": sizes.dit_heads,
        "head_dim": sizes.dit_head_dim,
        "hidden_size": sizes.dit_width,
    }


def _hift(sizes: HiftSizes) -> list[str]:
    entries = {
        "in_channels": hift.MELS,
        "base_channels": sizes.channels,
        "nb_harmonics": hift.HARMONICS - 1,
        "sampling_rate": 24000,
        "nsf_alpha": 0.1,
        "nsf_sigma": 0.003,
        "nsf_voiced_threshold": 10,
        "upsample_rates": list(hift.UPSAMPLE_RATES),
        "upsample_kernel_sizes": list(hift.UPSAMPLE_KERNELS),
        "istft_params": "{n_fft: 16, hop_len: 4}",
        "resblock_kernel_sizes": list(hift.RESBLOCK_KERNELS),
        "resblock_dilation_sizes": [[1, 3, 5]] * 3,
        "source_resblock_kernel_sizes": list(hift.SOURCE_KERNELS),
        "source_resblock_dilation_sizes": [[1, 3, 5]] * 3,
        "lrelu_slope": 0.1,
        "audio_limit": 0.99,
    }
    predictor = {"num_class": 1, "in_channels": hift.MELS, "cond_channels": sizes.f0_channels}
    return [
        *_node(0, "hift", "hifigan.generator.HiFTGenerator", entries),
        *_node(4, "f0_predictor", "hifigan.f0_predictor.ConvRNNF0Predictor", predictor),
    ]


def _mel() -> list[str]:
    entries = {"n_fft": 1920, "num_mels": 80, "sampling_rate": 24000, "hop_size": 480, "win_size": 1920}
    return [
        "mel_conf:",
        *(f"    {name}: {value}" for name, value in entries.items()),
        *("    fmin: 0", "    fmax: 8000", "    center: False"),
    ]
