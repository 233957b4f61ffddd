"""The Triton kernels against their plain torch forms; only where there is a GPU."""

import pytest
import torch

from deployments.vocoder import fused

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
TYPES = [torch.float32, torch.float16]


def random(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype).cuda()


def same(found: torch.Tensor, wanted: torch.Tensor) -> None:
    tolerance = 1e-5 if found.dtype == torch.float32 else 2e-2
    torch.testing.assert_close(found.cpu().float(), wanted.float(), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("spread", [False, True])
@pytest.mark.parametrize("remembered", [False, True])
@pytest.mark.parametrize("frames", [1, 2, 33])
def test_norm(dtype: torch.dtype, gated: bool, spread: bool, remembered: bool, frames: int) -> None:
    x, scale, shift = random(3, frames, 96, dtype=dtype), random(96, dtype=dtype), random(1, 96, dtype=dtype)[0]
    through = (random(96, dtype=dtype), random(3, frames, 96, dtype=dtype)) if gated else None
    past = random(3, 2, 96, dtype=dtype) if remembered else None
    arguments = (x, scale, shift, 1e-6, through, spread, spread, past)
    plain = (
        x.cpu(),
        scale.cpu(),
        shift.cpu(),
        1e-6,
        _cpu(through),
        spread,
        spread,
        None if past is None else past.cpu(),
    )
    for found, wanted in zip(fused.norm(*arguments), fused.norm(*plain), strict=True):
        same(found, wanted)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("remembered", [False, True])
@pytest.mark.parametrize("lengths", [None, [1, 2, 9]])
def test_norm_writes_each_rows_last_frames(dtype: torch.dtype, remembered: bool, lengths: list[int] | None) -> None:
    x, scale, shift = random(3, 9, 96, dtype=dtype), random(96, dtype=dtype), random(1, 96, dtype=dtype)[0]
    past = random(3, 2, 96, dtype=dtype) if remembered else None
    ends = torch.zeros(3, 2, 96, dtype=dtype)
    found = ends.cuda()
    counts = None if lengths is None else torch.tensor(lengths)
    fused.norm(
        x.cpu(), scale.cpu(), shift.cpu(), 1e-6, None, False, True, None if past is None else past.cpu(), counts, ends
    )
    fused.norm(x, scale, shift, 1e-6, None, False, True, past, None if counts is None else counts.cuda(), found)
    same(found, ends)


@pytest.mark.parametrize("dtype", TYPES)
def test_split_heads(dtype: torch.dtype) -> None:
    projected, weights = random(2, 7, 3 * 4 * 32, dtype=dtype), random(4, 32, dtype=dtype)
    memory = random(2, 2, 4, 20, 32, dtype=dtype)
    plain = memory.cpu()
    found = fused.split_heads(projected, weights, memory[0], memory[1], 1e-5)
    same(found, fused.split_heads(projected.cpu(), weights.cpu(), plain[0], plain[1], 1e-5))
    same(memory, plain)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_snake(dtype: torch.dtype, biased: bool, added: bool, masked: bool) -> None:
    x, alpha = random(2, 6, 1, 1100, dtype=dtype), random(6, dtype=dtype).abs() + 0.5
    bias = random(6, dtype=dtype) if biased else None
    residual = random(2, 6, 1, 1100, dtype=dtype) if added else None
    mask = (torch.arange(1100) < torch.tensor([[1100], [37]]))[:, None, None].cuda() if masked else None
    found = fused.snake(x, alpha, bias, residual, mask)
    wanted = fused.snake(*(None if part is None else part.cpu() for part in (x, alpha, bias, residual, mask)))
    same(found[1], wanted[1])
    if added:
        same(found[0], wanted[0])


def _cpu(parts: tuple[torch.Tensor, ...] | None) -> tuple[torch.Tensor, ...] | None:
    return None if parts is None else tuple(part.cpu() for part in parts)
