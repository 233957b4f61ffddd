"""Write the quantised variants of a base model folder: NF4 by bitsandbytes, packed int4 by compressed-tensors.

The libraries that define the two formats write them, in the configuration of the published folders. Everything
that is not the language model (tokenizer, vocoder) is copied from the base folder. Weights are rounded to the
nearest step (no calibration): the format is what matters here, not the last bit of quality.
"""

import logging
import shutil
from pathlib import Path

import torch
from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.quantization import (
    QuantizationArgs,
    QuantizationConfig,
    QuantizationScheme,
    QuantizationStatus,
    apply_quantization_config,
)
from compressed_tensors.quantization.utils import calculate_qparams
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

from deployments.llm import step1

GROUP_SIZE = 128
IGNORED = "lm_head"

logger = logging.getLogger(__name__)


def write_bnb(model_folder: Path, out: Path, device: str = "cpu") -> None:
    """Quantise ``model_folder`` to NF4 with double quantisation, as the published bnb folder is."""
    step1.register()
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    model = AutoModelForCausalLM.from_pretrained(
        model_folder, dtype=torch.bfloat16, quantization_config=config, device_map={"": device}
    )
    _save(model, model_folder, out)


def write_awq(model_folder: Path, out: Path, symmetric: bool = True, device: str = "cpu") -> None:
    """Quantise ``model_folder`` to pack-quantized int4 in groups of 128, as the published awq folder is.

    ``symmetric=False`` gives the W4A16_ASYM scheme that the published quantisation tool defaults to.
    """
    step1.register()
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.bfloat16, device_map={"": device})
    weights = QuantizationArgs(
        num_bits=4, type="int", symmetric=symmetric, strategy="group", group_size=GROUP_SIZE, observer="minmax"
    )
    scheme = QuantizationScheme(targets=["Linear"], weights=weights)
    config = QuantizationConfig(config_groups={"group_0": scheme}, ignore=[IGNORED], format="pack-quantized")
    apply_quantization_config(model, config)
    for module in model.modules():
        if isinstance(module, nn.Linear) and getattr(module, "quantization_scheme", None) is not None:
            _set_steps(module, weights)
    compressor = ModelCompressor.from_pretrained_model(model)
    assert compressor is not None
    compressor.compress_model(model)
    _save(model, model_folder, out)
    compressor.update_config(out)


@torch.no_grad()
def _set_steps(linear: nn.Linear, args: QuantizationArgs) -> None:
    """Scale and zero point of each group from its smallest and largest weight."""
    groups = linear.weight.unflatten(1, (-1, GROUP_SIZE))
    scale, zero_point = calculate_qparams(groups.amin(-1), groups.amax(-1), args)
    linear.get_parameter("weight_scale").copy_(scale)
    if hasattr(linear, "weight_zero_point"):
        linear.get_parameter("weight_zero_point").copy_(zero_point)
    linear.quantization_status = QuantizationStatus.FROZEN


def _save(model: PreTrainedModel, model_folder: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for path in model_folder.iterdir():
        if path.suffix == ".safetensors" or path.name.endswith(".index.json"):
            continue
        if path.is_dir():
            shutil.copytree(path, out / path.name, dirs_exist_ok=True)
        else:
            shutil.copy2(path, out / path.name)
    model.save_pretrained(out)
    logger.info("wrote %s", out)
