"""VQ06: goldens by torch, alone and batched, and by ONNX Runtime; the pieces of long clips."""

import pytest
import torch
from safetensors.torch import load_file

from deployments.encoder.s3 import S3, pieces
from deployments.encoder.s3_weights import load_s3, open_graph, read_sizes
from deployments.encoder.sessions import S3Session, SessionOptions, open_session
from deployments.errors import CheckpointError
from tests.encoder.conftest import GOLDENS, Tensors

GRAPH = GOLDENS / "s3" / "speech_tokenizer_v1.onnx"
FRAMES = (100, 319, 4, 403, 57)


@pytest.fixture(scope="module")
def goldens() -> Tensors:
    return load_file(GOLDENS / "s3" / "s3.safetensors")


@pytest.fixture(scope="module")
def network() -> S3:
    return load_s3(GRAPH)


def test_sizes_are_read_from_the_graph() -> None:
    sizes = read_sizes(open_graph(GRAPH))
    assert (sizes.width, sizes.heads, sizes.blocks, sizes.positions, sizes.codes) == (64, 4, 2, 1500, 96)


@pytest.mark.parametrize("frames", FRAMES)
def test_torch_and_onnx_runtime_give_the_golden(frames: int, network: S3, goldens: Tensors) -> None:
    mel, codes = goldens[f"mel.{frames}"][0], goldens[f"codes.{frames}"][0]
    assert torch.equal(network([mel])[0], codes)
    assert torch.equal(S3Session(open_session(GRAPH, SessionOptions()))([mel])[0], codes)


def test_a_batch_of_all_lengths_gives_the_goldens(network: S3, goldens: Tensors) -> None:
    batch = network([goldens[f"mel.{frames}"][0] for frames in FRAMES])
    for frames, codes in zip(FRAMES, batch, strict=True):
        assert torch.equal(codes, goldens[f"codes.{frames}"][0])


def test_a_clip_is_cut_every_30_seconds_and_a_short_rest_dropped() -> None:
    assert [len(piece) for piece in pieces(torch.zeros(960_479))] == [480_000, 480_000]
    assert [len(piece) for piece in pieces(torch.zeros(480_480))] == [480_000, 480]


def test_a_provider_that_is_not_there_is_named() -> None:
    with pytest.raises(CheckpointError, match="NoSuchProvider"):
        open_session(GRAPH, SessionOptions(providers=("NoSuchProvider",)))
