import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import sentencepiece
import torch
from onnx import numpy_helper
from safetensors import safe_open
from safetensors.torch import load_file

from deployments.checkpoint import Layout, safetensors_files, safetensors_shapes
from deployments.encoder.campplus import CamPlus
from deployments.encoder.campplus_weights import load_campplus
from deployments.encoder.load import load as load_encoder
from deployments.types import SAMPLE_RATE, Clip
from deployments.vocoder.model import load as load_vocoder
from scripts import make_checkpoint
from scripts.checkpoints import campplus, flow, hift, paraformer, s3, step1
from scripts.checkpoints.presets import FULL, TINY, S3Sizes, Step1Sizes
from scripts.checkpoints.weights import Source

GOLDENS = Path(__file__).parents[1] / "goldens"
PUBLISHED = json.loads((GOLDENS / "state_dict_shapes.json").read_text())
SMALL = Step1Sizes(hidden=128, ffn=128, heads=2, groups=1, layers=1, shard_bytes=1_000_000)


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("flow.pt", flow.shapes(FULL.flow)),
        ("hift.pt", hift.shapes(FULL.hift)),
        ("paraformer encoder", paraformer.encoder_shapes(FULL.paraformer)),
        ("Step-Audio-EditX model.safetensors", step1.shapes(FULL.step1, FULL.step1.vocab)),
    ],
)
def test_full_preset_has_the_published_names_and_shapes(name, shapes):
    assert {tensor: list(shape) for tensor, shape in shapes.items()} == PUBLISHED[name]


def test_full_tokenizer_has_the_published_ids(tmp_path):
    sizes = FULL.step1
    assert step1.tokenizer.write(tmp_path, sizes) == (65536, 74752)
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    assert [tokenizer.id_to_piece(index) for index in (1, 2, 3, 4)] == ["<s>", "</s>", "<|EOT|>", "<|BOT|>"]
    assert tokenizer.piece_to_id("<audio_0>") == 65536
    assert tokenizer.piece_to_id("<audio_5119>") == 65536 + 5119


def test_tiny_tokenizer_reads_any_text_and_every_code(tiny_models):
    path = Layout(tiny_models).variant("base") / "tokenizer.model"
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(path))
    first = tokenizer.piece_to_id("<audio_0>")
    codes = [tokenizer.piece_to_id(f"<audio_{code}>") for code in range(5120)]
    assert codes == list(range(first, first + 5120)) and len(tokenizer) == first + 5120
    text = "测试语音合成效果, naïve 🙂 Привет"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert 0 not in tokenizer.encode(text)


def test_tiny_preset_is_small(tiny_models):
    assert sum(path.stat().st_size for path in tiny_models.rglob("*") if path.is_file()) < 100_000_000


def test_same_seed_writes_the_same_bytes_and_another_seed_others(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        step1.write(tmp_path / name, SMALL, seed, "cpu")
    files = {name: [file.read_bytes() for file in safetensors_files(tmp_path / name)] for name in "abc"}
    assert files["a"] == files["b"]
    assert files["a"] != files["c"]


def test_shards_hold_every_tensor_once_in_bf16_and_within_the_limit(tmp_path):
    step1.write(tmp_path, SMALL, 0, "cpu")
    files = safetensors_files(tmp_path)
    names = []
    for file in files:
        with safe_open(file, "pt") as handle:
            names += list(handle.keys())
        assert file.stat().st_size < SMALL.shard_bytes + 10_000 or len(load_file(file)) == 1
        assert all(tensor.dtype == torch.bfloat16 for tensor in load_file(file).values())
    vocab = json.loads((tmp_path / "config.json").read_text())["vocab_size"]
    assert len(files) > 1 and len(names) == len(set(names))
    assert safetensors_shapes(tmp_path) == step1.shapes(SMALL, vocab)


def test_config_leaves_tying_unsaid_as_the_published_one_does(tiny_models):
    config = json.loads((Layout(tiny_models).variant("base") / "config.json").read_text())
    published = json.loads((GOLDENS / "pipeline/models/Step-Audio-EditX/config.json").read_text())
    assert set(config) == set(published) - {"transformers_version"}


def test_s3_graph_computes_what_the_published_graph_computes(tmp_path):
    """Our nodes with the golden graph's weights: matrices are matched by the node that multiplies by them."""
    golden = onnx.load(GOLDENS / "s3" / "speech_tokenizer_v1.onnx")
    ours = s3.build(S3Sizes(width=64, heads=4, blocks=2), Source(0, "s3"))
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in golden.graph.initializer}
    source = {node.name: node.input[1] for node in golden.graph.node if node.op_type == "MatMul"}
    renamed = {node.input[1]: source[node.name] for node in ours.graph.node if node.op_type == "MatMul"}
    for tensor in ours.graph.initializer:
        value = weights.pop(renamed.get(tensor.name, tensor.name))
        tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    assert not weights
    session = onnxruntime.InferenceSession(ours.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = load_file(GOLDENS / "s3" / "s3.safetensors")
    lengths = [name.split(".")[1] for name in expected if name.startswith("mel.")]
    assert lengths
    for length in lengths:
        codes = _codes(session, expected[f"mel.{length}"].numpy().reshape(1, 128, -1))
        np.testing.assert_array_equal(codes.ravel(), expected[f"codes.{length}"].numpy().ravel())


def test_s3_graph_ignores_padding_and_uses_many_codes(tiny_models):
    session = onnxruntime.InferenceSession(Layout(tiny_models).s3, providers=["CPUExecutionProvider"])
    features = np.random.default_rng(0).normal(size=(1, 128, 1001)).astype(np.float32)
    codes = _codes(session, features)
    padded = session.run(None, {"feats": np.pad(features, ((0, 0), (0, 0), (0, 9))), "feats_length": np.int32([1001])})
    assert codes.shape == (1, 251)
    np.testing.assert_array_equal(padded[0][:, :251], codes)
    assert len(np.unique(codes)) > 50


@pytest.mark.parametrize("preset", [TINY, FULL], ids=["tiny", "full"])
def test_campplus_is_the_published_architecture(preset, tmp_path):
    """The encoder recognises its layers and finds the same numbers in torch; another network would be refused."""
    campplus.write(tmp_path, preset.campplus, 0)
    path = tmp_path / "campplus.onnx"
    network = load_campplus(onnx.load(path), onnxruntime.InferenceSession(path))
    published = sum(weight.numel() for weight in CamPlus().parameters())
    assert (sum(weight.numel() for weight in network.parameters()) == published) == (preset is FULL)


def test_campplus_takes_any_number_of_frames(tiny_models):
    session = onnxruntime.InferenceSession(Layout(tiny_models).cosyvoice / "campplus.onnx")
    for frames in (40, 300):
        features = np.random.default_rng(frames).normal(size=(1, frames, 80)).astype(np.float32)
        (speaker,) = session.run(None, {"input": features})
        assert speaker.shape == (1, 192) and np.isfinite(speaker).all() and speaker.std() > 0.1


def test_command_line_makes_all_variants_within_a_minute(tmp_path):
    out = tmp_path / "deep" / "models"
    start = time.perf_counter()
    subprocess.run([sys.executable, make_checkpoint.__file__, "--out", out], capture_output=True, check=True)
    assert time.perf_counter() - start < 60
    assert Layout(out).variants() == ["base", "bnb", "awq"]
    assert list(out.parent.iterdir()) == [out]


def test_tiny_checkpoint_speaks_audibly_without_clipping(tiny_models):
    layout, cpu = Layout(tiny_models), torch.device("cpu")
    samples = np.random.default_rng(0).normal(0, 0.1, (1, 3 * SAMPLE_RATE)).astype(np.float32)
    reference = load_encoder(layout, cpu).encode_batch([Clip(samples, SAMPLE_RATE)])[0]
    coarse, fine = reference.vq02, reference.vq06
    assert len(np.unique(coarse)) > len(coarse) // 4 and len(np.unique(fine)) > len(fine) // 4
    speech = load_vocoder(layout, cpu).synthesize(reference.codes, reference, seed=0)
    assert np.isfinite(speech).all() and np.abs(speech).max() <= 1
    assert 0.02 < np.sqrt((speech**2).mean()) < 0.4
    assert (np.abs(speech) > 0.98).mean() < 0.01


def test_command_line_refuses_a_folder_that_exists(tmp_path):
    script = Path(make_checkpoint.__file__)
    result = subprocess.run([sys.executable, script, "--out", tmp_path], capture_output=True, text=True, check=False)
    assert result.returncode == 2 and "exists already" in result.stderr


def _codes(session: onnxruntime.InferenceSession, features: np.ndarray) -> np.ndarray:
    length = np.array([features.shape[-1]], dtype=np.int32)
    return session.run(None, {"feats": features, "feats_length": length})[0]
