"""Kernels against plain torch. They run on a GPU, or on a CPU in Triton's interpreter (TRITON_INTERPRET=1)."""

import os

import pytest
import torch

pytest.importorskip("triton")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not INTERPRETED and not torch.cuda.is_available():
    pytest.skip("needs a GPU or TRITON_INTERPRET=1", allow_module_level=True)

from deployments.llm import model  # noqa: E402
from deployments.llm.kernels.fusion import AddNorm, Normed, Ways, Workspace  # noqa: E402
from deployments.llm.kernels.linear import (  # noqa: E402
    DenseLinear,
    Launch,
    QuantisedLinear,
    matvec,
    packable,
)
from deployments.llm.kernels.ops import GPUOps, GPUSampler  # noqa: E402
from deployments.llm.quantization import NF4_TABLE, Int4Weight, NF4Weight  # noqa: E402
from deployments.llm.runner import Sampler, SlotState, Vocabulary  # noqa: E402
from deployments.llm.step1 import Step1Config  # noqa: E402
from deployments.types import Sampling  # noqa: E402

DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
DTYPE = torch.float16 if INTERPRETED else torch.bfloat16  # the interpreter multiplies no bfloat16
CONFIG = Step1Config(384, 256, 24, 2, 2, 6000)  # heads of 16, twelve to a group


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, DTYPE)


def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(found.float(), wanted.float(), rtol=2e-2, atol=2e-2 * wanted.float().abs().max().item())


def int4(out: int, inner: int, group: int, symmetric: bool) -> Int4Weight:
    generator = torch.Generator().manual_seed(1)
    codes = torch.randint(16, (out, inner), generator=generator, dtype=torch.uint8)
    zeros = torch.full((out, inner // group), 8, dtype=torch.uint8)
    if not symmetric:
        zeros = torch.randint(16, zeros.shape, generator=generator, dtype=torch.uint8)
    scales = torch.rand(zeros.shape, generator=generator).bfloat16() / 8
    return Int4Weight(codes.to(DEVICE), scales.to(DEVICE), zeros.to(DEVICE))


def nf4(out: int, inner: int) -> NF4Weight:
    generator = torch.Generator().manual_seed(2)
    codes = torch.randint(16, (out, inner), generator=generator, dtype=torch.uint8)
    absmax = torch.rand(out * inner // 64, generator=generator)
    return NF4Weight(codes.to(DEVICE), torch.tensor(NF4_TABLE, device=DEVICE), absmax.to(DEVICE), 64)


WEIGHTS = {
    "symmetric": lambda: int4(192, 512, 128, True),
    "asymmetric": lambda: int4(192, 512, 128, False),
    "groups of 256": lambda: int4(128, 512, 256, True),
    "odd outputs": lambda: int4(104, 256, 128, True),
    "nf4": lambda: nf4(192, 512),
}


@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize("rows", [1, 5, 32, 40])
def test_a_4_bit_product_is_that_of_the_dequantised_matrix(kind: str, rows: int):
    weight = WEIGHTS[kind]()
    linear = QuantisedLinear(weight, Workspace(DEVICE))
    x = random(rows, weight.codes.shape[1])
    close(linear(x), x.float() @ weight.dequantize().T)


@pytest.mark.parametrize("split", [1, 2, 4])
def test_a_product_in_parts_is_the_whole_and_can_be_repeated(split: int):
    weight = WEIGHTS["symmetric"]()
    linear = QuantisedLinear(weight, Workspace(DEVICE))
    x = random(3, 512)
    first = linear.fused(Normed(x), launch=Launch(16, 64, split))[0]
    close(first, x.float() @ weight.dequantize().T)
    assert torch.equal(linear.fused(Normed(x), launch=Launch(16, 64, split))[0], first)


@pytest.mark.parametrize("kind", WEIGHTS)
def test_an_expanded_matrix_is_the_dequantised_one(kind: str):
    weight = WEIGHTS[kind]()
    close(QuantisedLinear(weight, Workspace(DEVICE)).expand(DTYPE), weight.dequantize())


def test_what_the_kernels_cannot_multiply_is_known():
    assert not packable(int4(64, 96, 32, True))
    assert not packable(int4(64, 256, 64, True))
    other = nf4(64, 128)
    assert not packable(NF4Weight(other.codes, other.table * 0.9, other.absmax, 64))


@pytest.mark.parametrize("gated", [False, True])
def test_a_matrix_times_one_vector(gated: bool):
    x, matrix = random(1, 1536), random(202, 1536, seed=1) / 16
    wanted = x.float() @ matrix.float().T
    if gated:
        gate, up = wanted.chunk(2, dim=1)
        wanted = torch.nn.functional.silu(gate) * up
    close(matvec(x, matrix, Workspace(DEVICE), gated), wanted)


def both(
    slots: int = 4, length: int = 320, ways: Ways | None = None
) -> tuple[model.KVCache, GPUOps, model.KVCache, model.TorchOps]:
    ours, theirs = (model.allocate(CONFIG, slots, length, DEVICE, DTYPE) for _ in range(2))
    for cache in (ours, theirs):
        cache.keys.copy_(random(*cache.keys.shape, seed=3))
        cache.values.copy_(random(*cache.values.shape, seed=4))
    return ours, GPUOps(CONFIG, ours, Workspace(DEVICE, ways)), theirs, model.TorchOps(CONFIG, theirs)


LINEARS = {
    "dense": lambda out, inner, seed: DenseLinear(random(out, inner, seed=seed) / 16, Workspace(DEVICE)),
    "int4": lambda out, inner, seed: QuantisedLinear(int4(out, inner, 128, seed % 2 == 0), Workspace(DEVICE)),
    "nf4": lambda out, inner, seed: QuantisedLinear(nf4(out, inner), Workspace(DEVICE)),
}


@pytest.mark.parametrize("kind", LINEARS)
@pytest.mark.parametrize("rows", [1, 5, 40])
@pytest.mark.parametrize("ways", [Ways(), Ways(norms=False, gate=False), Ways(overlap=True, prefetch=True)], ids=str)
def test_products_with_norms_and_gates_around_them(kind: str, rows: int, ways: Ways):
    """A layer's chain of products, each fused or not, against the same in torch."""
    _, ops, _, plain = both(ways=ways)
    make = LINEARS[kind]
    mix, gate_up, down = make(384, 384, 1), make(512, 384, 2), make(384, 256, 3)
    x, residual, weights = random(rows, 384), random(rows, 384, seed=1) * 3, random(2, 384, seed=2)
    found, normed = ops.multiply_add_norm(mix, x, residual, weights[0])
    wanted, plain_normed = plain.multiply_add_norm(mix, x, residual, weights[0])
    close(found, wanted)
    close(ops.settle(normed), plain_normed)
    close(ops.multiply(mix, normed), plain.multiply(mix, plain_normed))
    gated, plain_gated = ops.multiply_gated(gate_up, normed), plain.multiply_gated(gate_up, plain_normed)
    close(gated, plain_gated)
    found, normed = ops.multiply_add_norm(down, gated, found, weights[1])
    wanted, plain_normed = plain.multiply_add_norm(down, plain_gated, wanted, weights[1])
    close(found, wanted)
    close(ops.settle(normed), plain_normed)
    close(ops.settle(ops.norm(x, weights[0])), plain.norm(x, weights[0]))


@pytest.mark.parametrize("split", [1, 2])
def test_a_gated_product_in_parts(split: int):
    weight = int4(256, 256, 128, False)
    linear, x = QuantisedLinear(weight, Workspace(DEVICE)), random(3, 256)
    after = AddNorm(random(3, 128, seed=5), random(128, seed=6), 1e-5)
    gate, up = (x.float() @ weight.dequantize().T).chunk(2, dim=1)
    wanted = torch.nn.functional.silu(gate) * up + after.residual.float()
    out, written = linear.fused(Normed(x), gated=True, after=after, launch=Launch(16, 64, split))
    assert written is not None
    close(written.total, wanted)
    close(out, wanted * after.weight.float())
    close(written.squares.sum(1), written.total.float().square().sum(1))


@pytest.mark.parametrize("rows", [1, 4])
def test_decoding_attention(rows: int):
    cache, ops, their_cache, plain = both()
    qkv = random(rows, (24 + 4) * 16)
    slots = torch.tensor([2, 4, 0, 1][:rows], device=DEVICE)  # 4 is padding
    for positions in ([300, 0, 0, 64], [63, 0, 319, 1]):
        at = torch.tensor(positions[:rows], device=DEVICE)
        found, wanted = ops.decode(qkv, 1, slots, at), plain.decode(qkv, 1, slots, at)
        real = slots < 4
        close(found[real], wanted[real])
        assert torch.equal(cache.keys, their_cache.keys) and torch.equal(cache.values, their_cache.values)


@pytest.mark.parametrize(("start", "rows"), [(0, 1), (0, 70), (33, 130), (250, 70)])
def test_prefill_attention(start: int, rows: int):
    cache, ops, their_cache, plain = both(length=330)
    qkv = random(rows, (24 + 4) * 16)
    chunk = model.Chunk(torch.tensor([1], device=DEVICE), torch.tensor([start], device=DEVICE))
    close(ops.prefill(qkv, 0, chunk), plain.prefill(qkv, 0, chunk))
    assert torch.equal(cache.keys, their_cache.keys) and torch.equal(cache.values, their_cache.values)


def test_a_padded_chunk_stays_in_its_slot():
    cache, ops, _, _ = both(length=320)
    before = cache.keys.clone()
    chunk = model.Chunk(torch.tensor([1], device=DEVICE), torch.tensor([300], device=DEVICE))
    ops.prefill(random(64, (24 + 4) * 16), 0, chunk)
    assert torch.equal(cache.keys[:, [0, 2, 3]], before[:, [0, 2, 3]])
    assert torch.equal(cache.keys[0, 1, :, :300], before[0, 1, :, :300])


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("top_k", [1, 50, 100])
def test_codes_are_drawn_and_states_move_on_as_in_torch(temperature: float, top_k: int):
    head = random(6000, 64, seed=6)
    vocabulary = Vocabulary(700, (3, 2))
    ours, theirs = GPUSampler(head, vocabulary, Workspace(DEVICE)), Sampler(head, vocabulary)
    states = [SlotState.allocate(6, DEVICE) for _ in range(2)]
    for slot in range(6):
        row = SlotState.row(Sampling(seed=slot << 40 | 77, temperature=temperature, top_k=top_k), range(50, 90))
        for state in states:
            state.rows[slot] = row.to(DEVICE)
    slots = torch.tensor([3, 0, 5, 1], device=DEVICE)
    same = 0
    for step in range(12):
        hidden = random(4, 64, seed=step)
        found = ours.draw_codes(hidden, states[0], slots)
        before = states[1].at(slots)
        wanted = theirs(hidden, before, wide=False)
        states[1].advance(slots, before, wanted)
        same += int((found == wanted).sum())
        states[0].rows.copy_(states[1].rows) if not torch.equal(found, wanted) else None
        assert torch.equal(states[0].rows, states[1].rows)
    assert same >= 46  # of 48: products that round differently may swap two codes of nearly equal score


def test_padding_rows_draw_nothing():
    head = random(6000, 64, seed=6)
    sampler = GPUSampler(head, Vocabulary(700, (3, 2)), Workspace(DEVICE))
    state = SlotState.allocate(2, DEVICE)
    before = state.rows.clone()
    sampler.draw_codes(random(3, 64), state, torch.tensor([2, 2, 2], device=DEVICE))
    assert torch.equal(state.rows, before)
