"""VQ02: goldens by the streaming loop and by blocks, and that the two are one, whatever the lengths."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from deployments.encoder import paraformer
from deployments.encoder.frontend import read_cmvn, row_count
from deployments.encoder.vq02 import Mode, Vq02
from tests.encoder.conftest import GOLDENS, Tensors, noise

SIZES = {"output_size": 64, "attention_heads": 4, "linear_units": 128, "num_blocks": 3}
SIZES |= {"kernel_size": 11, "sanm_shfit": 0}
FULL_SIZES = SIZES | {"output_size": 512, "linear_units": 2048, "num_blocks": 50}
LENGTHS = (1000, 8000, 11520, 11620, 19679, 19680, 20000, 28880, 38400, 40000, 51120)


@pytest.fixture(scope="module")
def goldens() -> Tensors:
    return load_file(GOLDENS / "vq02.safetensors")


@pytest.fixture(scope="module")
def network(goldens: Tensors) -> Vq02:
    encoder = paraformer.build(SIZES, "cpu")
    encoder.load_state_dict({k.removeprefix("weight."): v for k, v in goldens.items() if k.startswith("weight.")})
    return Vq02(encoder, read_cmvn(GOLDENS / "am.mvn"), goldens["codebook"])


def _with_mode(network: Vq02, mode: Mode) -> Vq02:
    return Vq02(network.encoder, network.frontend.cmvn, network.centroids, mode)


@pytest.mark.parametrize("length", LENGTHS)
def test_streaming_loop_gives_the_golden(length: int, network: Vq02, goldens: Tensors, audio_goldens: Tensors) -> None:
    rows = network.frontend([audio_goldens["preprocessed_16k"][0, :length]])[0]
    output = paraformer.encode_streaming(network.encoder, rows)
    torch.testing.assert_close(output, goldens[f"enc_out.{length}"][0], atol=1e-4, rtol=0)


def test_blocks_of_all_lengths_together_give_the_goldens(
    network: Vq02, goldens: Tensors, audio_goldens: Tensors
) -> None:
    rows = network.frontend([audio_goldens["preprocessed_16k"][0, :length] for length in LENGTHS])
    counts = [len(part) for part in rows]
    outputs = network.encode_blocks(torch.cat(rows), counts).split(counts)
    for length, output in zip(LENGTHS, outputs, strict=True):
        torch.testing.assert_close(output, goldens[f"enc_out.{length}"][0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("mode", ["blocks", "reference"])
def test_codes_are_the_goldens(mode: Mode, network: Vq02, goldens: Tensors, audio_goldens: Tensors) -> None:
    codes = _with_mode(network, mode)([audio_goldens["preprocessed_16k"][0]])[0]
    assert torch.equal(codes, goldens["codes.51120"])


def test_names_and_shapes_at_full_size_are_the_published_ones() -> None:
    published = json.loads((GOLDENS / "state_dict_shapes.json").read_text())["paraformer encoder"]
    assert paraformer.expected_shapes(paraformer.build(FULL_SIZES)) == {k: tuple(v) for k, v in published.items()}
    assert len(published) == 652


@pytest.mark.parametrize(("samples", "rows"), [(879, 0), (880, 1), (1360, 2), (2320, 3), (3280, 4), (3840 + 879, 4)])
def test_the_tail_of_a_clip_gives_as_many_rows_as_its_samples_allow(samples: int, rows: int, network: Vq02) -> None:
    assert row_count(samples) == rows
    assert len(network.frontend([torch.ones(samples)])[0]) == rows


def test_codes_of_200_random_lengths_in_mixed_batches_equal_the_streaming_loop(network: Vq02) -> None:
    random = np.random.default_rng(7)
    long, short = random.uniform(48_000, 480_000, 18), np.exp(random.uniform(np.log(480), np.log(48_000), 180))
    lengths = random.permutation(np.concatenate([[480, 480_000], long, short])).astype(int)
    signal = torch.from_numpy(noise(30).samples[0])
    clips = [signal[:length].roll(int(length)) for length in lengths]
    reference = _with_mode(network, "reference")
    for start in range(0, len(clips), 20):
        batch = clips[start : start + 20]
        for together, clip in zip(network(batch), batch, strict=True):
            assert torch.equal(together, reference([clip])[0]), len(clip)


def test_a_batch_in_any_order_gives_the_same_codes(network: Vq02) -> None:
    clips = [torch.from_numpy(noise(seconds, seed=i).samples[0]) for i, seconds in enumerate((0.03, 2.0, 0.7, 1.1))]
    forward, backward = network(clips), network(clips[::-1])[::-1]
    assert all(torch.equal(a, b) for a, b in zip(forward, backward, strict=True))


def test_a_clip_longer_than_the_position_table_is_encoded(network: Vq02) -> None:
    network = _with_mode(network, "blocks")
    network.positions = network.positions[:20]
    clip = torch.from_numpy(noise(3.0).samples[0])
    assert torch.equal(network([clip])[0], _with_mode(network, "reference")([clip])[0])
