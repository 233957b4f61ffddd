import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from deployments.llm.step1 import Step1Config, Step1ForCausalLM, attention_bias, register, slopes

GOLDENS = Path(__file__).parents[1] / "goldens"


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    return load_file(GOLDENS / "step1.safetensors")


@pytest.fixture(scope="module")
def model(golden: dict[str, torch.Tensor]) -> Step1ForCausalLM:
    config = Step1Config(
        hidden_size=96,
        intermediate_size=128,
        num_attention_heads=6,
        num_attention_groups=2,
        num_hidden_layers=2,
        vocab_size=300,
    )
    model = Step1ForCausalLM(config).eval()
    model.load_state_dict({name[7:]: value for name, value in golden.items() if name.startswith("weight.")})
    return model


def test_slopes_are_powers_of_two_and_interleave_beyond_them():
    assert slopes(4).tolist() == [0.25, 0.0625, 0.015625, 0.00390625]
    assert slopes(6).tolist() == [0.25, 0.0625, 0.015625, 0.00390625, 0.5, 0.125]


def test_the_bias_is_the_root_of_the_distance_and_hides_the_future():
    bias = attention_bias(torch.tensor([0.5]), torch.tensor([4]), torch.tensor([0, 3, 4, 5]))
    assert bias.flatten().tolist() == [-1.0, -0.5, 0.0, float("-inf")]


@torch.inference_mode()
def test_logits_are_the_reference_s(model: Step1ForCausalLM, golden: dict[str, torch.Tensor]):
    logits = model(golden["input_ids"]).logits
    torch.testing.assert_close(logits, golden["logits"], atol=1e-4, rtol=0)


@torch.inference_mode()
def test_greedy_generation_through_transformers_is_the_reference_s(model: Step1ForCausalLM, golden: dict):
    ids = golden["input_ids"][:, :16]
    out = model.generate(ids, max_new_tokens=24, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert torch.equal(out, golden["greedy"])


@torch.inference_mode()
def test_left_padding_changes_nothing(model: Step1ForCausalLM, golden: dict):
    ids = golden["input_ids"][:, :10]
    padded = torch.cat([torch.zeros(1, 3, dtype=ids.dtype), ids], dim=1)
    mask = torch.tensor([[0] * 3 + [1] * 10])
    expected = model(ids).logits
    torch.testing.assert_close(model(padded, attention_mask=mask).logits[:, 3:], expected, atol=1e-5, rtol=0)


def test_full_size_names_and_shapes_are_the_published_ones():
    published = json.loads((GOLDENS / "state_dict_shapes.json").read_text())["Step-Audio-EditX model.safetensors"]
    with torch.device("meta"):
        model = Step1ForCausalLM(Step1Config())
    assert {name: list(value.shape) for name, value in model.state_dict().items()} == published
    assert sum(value.numel() for value in model.state_dict().values()) == 3_529_706_496


def test_auto_classes_load_the_published_layout_untied_and_run_none_of_its_code():
    register()
    folder = GOLDENS / "pipeline" / "models" / "Step-Audio-EditX"
    assert not AutoConfig.from_pretrained(folder).tie_word_embeddings
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert isinstance(model, Step1ForCausalLM)
    assert model.lm_head.weight.data_ptr() != model.model.embed_tokens.weight.data_ptr()
    stored = load_file(folder / "model.safetensors")
    assert torch.equal(model.lm_head.weight, stored["lm_head.weight"].float())
