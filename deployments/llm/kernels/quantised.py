"""Matrix products with 4-bit weights that are never expanded in memory.

Each weight is read once as 4 bits, becomes bfloat16 in registers and goes through tensor cores at every batch
size. Scales are applied to each group's partial sum, in float32.

Layout: int16 (in / 128, out, 32). Word i of a row holds in its nibble j the code of input 128 g + 32 j + i, so
that a nibble of a tile of words is a tile of 32 inputs in a row, and what a program reads lies contiguous.
"""

import triton
import triton.language as tl

from deployments.llm.kernels.overlap import begin, prefetch
from deployments.llm.kernels.planes import planes


@triton.jit
def _scales(SCALES, tile, n, in_n, N, GROUP: tl.constexpr):
    """Scales of a tile's first and second half: float32 (BLOCK_N,)."""
    group = tile * 128 // GROUP
    scale = tl.load(SCALES + group * N + n, mask=in_n, other=0.0).to(tl.float32)
    second = scale
    if GROUP == 64:
        second = tl.load(SCALES + (group + 1) * N + n, mask=in_n, other=0.0).to(tl.float32)
    return scale, second


@triton.jit
def _tile_product(
    W, ZEROS, tile, n, in_n, x0, x1, x2, x3, scale, second, N,
    KIND: tl.constexpr, GROUP: tl.constexpr, SYMMETRIC: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """float32 (BLOCK_N, BLOCK_M): rows n of W, of N in all, times one tile of inputs."""
    i = tl.arange(0, 32)
    words = tl.load(W + (tile * N + n[:, None]) * 32 + i[None, :], mask=in_n[:, None], other=0)
    w0, w1, w2, w3 = planes(words, ZEROS, tile * 128 // GROUP, n, in_n, N, KIND, SYMMETRIC, BLOCK_N)
    if GROUP == 64:
        product = tl.dot(w1, x1, tl.dot(w0, x0)) * scale[:, None]
        product += tl.dot(w3, x3, tl.dot(w2, x2)) * second[:, None]
    else:
        product = tl.dot(w3, x3, tl.dot(w2, x2, tl.dot(w1, x1, tl.dot(w0, x0)))) * scale[:, None]
    return product


@triton.jit
def _prefetch_words(
    W, first, n, N, ROWS, K: tl.constexpr, GATED: tl.constexpr, BLOCK_N: tl.constexpr
):  # fmt: skip
    """A program's first eight tiles of words, from row n of ROWS on; a row of words is half a line."""
    line = tl.arange(0, 4 * BLOCK_N)
    tile = tl.minimum(first + line // (BLOCK_N // 2), K // 128 - 1)
    row = tl.minimum(n + line % (BLOCK_N // 2) * 2, N - 1)
    prefetch(W + (tile * ROWS + row) * 32)
    if GATED:
        prefetch(W + (tile * ROWS + N + row) * 32)


@triton.jit
def _norm_factor(SQUARES, m, in_m, eps, K: tl.constexpr, PARTS: tl.constexpr):
    """1 / rms of each row, from at most 64 parts of its sum of squares: float32 (BLOCK_M,)."""
    p = tl.arange(0, 64)
    inside = in_m[:, None] & (p[None, :] < PARTS)
    squares = tl.load(SQUARES + m[:, None] * PARTS + p[None, :], mask=inside, other=0.0)
    return tl.rsqrt(tl.sum(squares, 1) / K + eps)


@triton.jit
def _gather(PARTS, size, here, inside, each: tl.constexpr, SPLIT: tl.constexpr):
    """The sum of a block's parts, in order."""
    total = tl.load(PARTS + here, mask=inside, other=0.0, cache_modifier=".cg")
    for other in range(1, SPLIT):
        total += tl.load(PARTS + other * each * size + here, mask=inside, other=0.0, cache_modifier=".cg")
    return total


@triton.jit
def _accumulate(
    X, W, SCALES, ZEROS, first, last, n, m, in_n, in_m, N, ROWS, K: tl.constexpr,
    KIND: tl.constexpr, GROUP: tl.constexpr, SYMMETRIC: tl.constexpr, GATED: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """The tiles first to last of a block of outputs, and of the block N rows on if GATED: float32 (BLOCK_N, BLOCK_M).

    Scales are read a tile ahead: unlike words and inputs they come without a pipeline of their own.
    """
    i = tl.arange(0, 32)
    total = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    ups = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    scale, second = _scales(SCALES, first, n, in_n, ROWS, GROUP)
    up_scale, up_second = scale, second
    if GATED:
        up_scale, up_second = _scales(SCALES, first, n + N, in_n, ROWS, GROUP)
    for tile in range(first, last + 1):
        ahead = tl.minimum(tile + 1, last)
        next_scale, next_second = _scales(SCALES, ahead, n, in_n, ROWS, GROUP)
        x = X + m[None, :] * K + tile * 128 + i[:, None]
        x0 = tl.load(x, mask=in_m[None, :], other=0.0)
        x1 = tl.load(x + 32, mask=in_m[None, :], other=0.0)
        x2 = tl.load(x + 64, mask=in_m[None, :], other=0.0)
        x3 = tl.load(x + 96, mask=in_m[None, :], other=0.0)
        if GATED:
            next_up, next_up_second = _scales(SCALES, ahead, n + N, in_n, ROWS, GROUP)
            ups += _tile_product(
                W, ZEROS, tile, n + N, in_n, x0, x1, x2, x3, up_scale, up_second, ROWS,
                KIND, GROUP, SYMMETRIC, BLOCK_N,
            )  # fmt: skip
            up_scale, up_second = next_up, next_up_second
        total += _tile_product(
            W, ZEROS, tile, n, in_n, x0, x1, x2, x3, scale, second, ROWS, KIND, GROUP, SYMMETRIC, BLOCK_N
        )
        scale, second = next_scale, next_second
    return total, ups


@triton.jit
def quantised_matmul_kernel(
    X, W, SCALES, ZEROS, OUT, PARTS, ARRIVED, SQUARES, RESIDUAL, WEIGHT, TOTAL, NEW_SQUARES,
    rows, N, eps, K: tl.constexpr,
    KIND: tl.constexpr, GROUP: tl.constexpr, SYMMETRIC: tl.constexpr,
    GATED: tl.constexpr, SCALED: tl.constexpr, ADDED: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, SPLIT: tl.constexpr,
    PREFETCH: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """X (rows, K) times W of (N, K) -> OUT (rows, N), a block of outputs per program and SPLIT programs per block.

    ZEROS is (K / GROUP, N), or NF4's table. PARTS float32 (SPLIT, 1 or 2, BLOCK_M, N) and ARRIVED int32 (blocks,),
    zero before and after, are for SPLIT > 1: the last program to arrive adds the parts up, in order.
    GATED: W is of (2 N, K), gates first, and silu(gate) * up comes out.
    SCALED > 0: the rows of X lack the factor of their RMS norm, which follows from the SCALED parts of their sums
    of squares in SQUARES (rows, SCALED). ADDED: TOTAL = product + RESIDUAL, OUT = TOTAL * WEIGHT, which lacks its
    factor, and NEW_SQUARES (rows, blocks).
    """
    pid, part = tl.program_id(0), tl.program_id(1)
    n = pid * BLOCK_N + tl.arange(0, BLOCK_N)
    m = tl.arange(0, BLOCK_M)
    in_n, in_m = n < N, m < rows
    W_ROWS = 2 * N if GATED else N
    per: tl.constexpr = (K // 128 + SPLIT - 1) // SPLIT
    first = part * per
    if PREFETCH:
        _prefetch_words(W, first, pid * BLOCK_N, N, W_ROWS, K, GATED, BLOCK_N)
    begin(OVERLAP)
    total, ups = _accumulate(
        X, W, SCALES, ZEROS, first, tl.minimum(first + per, K // 128) - 1, n, m, in_n, in_m, N, W_ROWS, K,
        KIND, GROUP, SYMMETRIC, GATED, BLOCK_M, BLOCK_N,
    )  # fmt: skip
    here = m[None, :] * N + n[:, None]
    in_out = in_n[:, None] & in_m[None, :]
    if SPLIT > 1:
        each: tl.constexpr = 2 if GATED else 1
        size = BLOCK_M * N
        tl.store(PARTS + part * each * size + here, total, mask=in_out)
        if GATED:
            tl.store(PARTS + (part * each + 1) * size + here, ups, mask=in_out)
        tl.debug_barrier()
        if tl.atomic_add(ARRIVED + pid, 1, sem="acq_rel") < SPLIT - 1:
            return
        total = _gather(PARTS, size, here, in_out, each, SPLIT)
        if GATED:
            ups = _gather(PARTS + size, size, here, in_out, each, SPLIT)
        tl.store(ARRIVED + pid, 0)
    if SCALED > 0:
        factor = _norm_factor(SQUARES, m, in_m, eps, K, SCALED)[None, :]
        total *= factor
        ups *= factor
    if GATED:
        total = total * tl.sigmoid(total) * ups
    if ADDED:
        residual = tl.load(RESIDUAL + here, mask=in_out, other=0.0).to(tl.float32)
        rounded = (total + residual).to(TOTAL.dtype.element_ty)
        tl.store(TOTAL + here, rounded, mask=in_out)
        total = rounded.to(tl.float32)
        tl.store(NEW_SQUARES + m * tl.num_programs(0) + pid, tl.sum(total * total, 0), mask=in_m)
        total *= tl.load(WEIGHT + n, mask=in_n, other=0.0).to(tl.float32)[:, None]
    tl.store(OUT + here, total.to(OUT.dtype.element_ty), mask=in_out)


@triton.jit
def dequantise_kernel(
    W, SCALES, ZEROS, OUT, N, K,
    KIND: tl.constexpr, GROUP: tl.constexpr, SYMMETRIC: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """W -> OUT bfloat16 (N, K): a block of outputs and a tile of inputs per program."""
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    tile = tl.program_id(1)
    i = tl.arange(0, 32)
    in_n = n < N
    words = tl.load(W + (tile * N + n[:, None]) * 32 + i[None, :], mask=in_n[:, None], other=0)
    first, second = _scales(SCALES, tile, n, in_n, N, GROUP)
    scale, after = first[:, None], second[:, None]
    w0, w1, w2, w3 = planes(words, ZEROS, tile * 128 // GROUP, n, in_n, N, KIND, SYMMETRIC, BLOCK_N)
    out = OUT + n[:, None].to(tl.int64) * K + tile * 128 + i[None, :]
    tl.store(out, (w0.to(tl.float32) * scale).to(OUT.dtype.element_ty), mask=in_n[:, None])
    tl.store(out + 32, (w1.to(tl.float32) * scale).to(OUT.dtype.element_ty), mask=in_n[:, None])
    tl.store(out + 64, (w2.to(tl.float32) * after).to(OUT.dtype.element_ty), mask=in_n[:, None])
    tl.store(out + 96, (w3.to(tl.float32) * after).to(OUT.dtype.element_ty), mask=in_n[:, None])
