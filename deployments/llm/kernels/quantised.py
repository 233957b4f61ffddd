"""Matrix products with 4-bit weights that are never expanded in memory.

Each weight is read once as 4 bits, becomes bfloat16 in registers and goes through tensor cores at every batch
size. Integers become bfloat16 by bit tricks (0x4300 | q is 128 + q) and NF4 codes by byte permutes out of a
table in registers: neither a conversion nor memory is involved. Scales are applied to each group's partial sum,
in float32.

Layout: int16 (in / 128, out, 32). Word i of a row holds in its nibble j the code of input 128 g + 32 j + i, so
that a nibble of a tile of words is a tile of 32 inputs in a row, and what a program reads lies contiguous.
"""

import os

import triton
import triton.language as tl

from deployments.llm.kernels.overlap import begin, prefetch

# The interpreter multiplies float16, not bfloat16, and knows no assembly.
INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")
INT4 = tl.constexpr(0)
NF4 = tl.constexpr(1)

# Nibble by nibble: 128 + q in both halves, times one, plus -(128 + zero).
_INT4_ASM = tl.constexpr("""{
    .reg .b32 a, b, c, d, one;
    mov.b32 one, 0x3F803F80;
    shr.u32 b, $4, 4;
    shr.u32 c, $4, 8;
    shr.u32 d, $4, 12;
    lop3.b32 a, $4, 0x000F000F, 0x43004300, 0xEA;
    lop3.b32 b, b, 0x000F000F, 0x43004300, 0xEA;
    lop3.b32 c, c, 0x000F000F, 0x43004300, 0xEA;
    lop3.b32 d, d, 0x000F000F, 0x43004300, 0xEA;
    fma.rn.bf16x2 $0, a, one, $5;
    fma.rn.bf16x2 $1, b, one, $5;
    fma.rn.bf16x2 $2, c, one, $5;
    fma.rn.bf16x2 $3, d, one, $5;
}""")

# A permute looks four nibbles up among eight bytes by their low three bits; the fourth bit chooses between the
# table's halves. High and low bytes of the bfloat16 values are looked up apart and then put together.
_NF4_ASM = tl.constexpr("""{
    .reg .b32 s0, s1, t0, t1, m0, m1, p, q, h0, h1, l0, l1, a, b, c, d, ff, zero;
    .reg .b32 ha, hb, hc, hd, la, lb, lc, ld;
    mov.b32 ha, 0xBEBFBFBF; mov.b32 hb, 0x00BDBEBE; mov.b32 hc, 0x3E3E3E3D; mov.b32 hd, 0x3F3F3F3E;
    mov.b32 la, 0xCA063280; mov.b32 lb, 0x00BA3D92; mov.b32 lc, 0xAD7C25A3; mov.b32 ld, 0x803910E2;
    mov.b32 ff, 0x0000FF00; mov.b32 zero, 0;
    and.b32 s0, $4, 0x77777777;
    shr.u32 s1, s0, 16;
    shr.u32 t0, $4, 3;
    and.b32 t0, t0, 0x11111111;
    shr.u32 t1, t0, 16;
    prmt.b32 m0, ff, zero, t0;
    prmt.b32 m1, ff, zero, t1;
    prmt.b32 p, ha, hb, s0; prmt.b32 q, hc, hd, s0; lop3.b32 h0, m0, q, p, 0xCA;
    prmt.b32 p, la, lb, s0; prmt.b32 q, lc, ld, s0; lop3.b32 l0, m0, q, p, 0xCA;
    prmt.b32 p, ha, hb, s1; prmt.b32 q, hc, hd, s1; lop3.b32 h1, m1, q, p, 0xCA;
    prmt.b32 p, la, lb, s1; prmt.b32 q, lc, ld, s1; lop3.b32 l1, m1, q, p, 0xCA;
    prmt.b32 a, l0, h0, 0x5140; prmt.b32 b, l1, h1, 0x5140;
    prmt.b32 c, l0, h0, 0x7362; prmt.b32 d, l1, h1, 0x7362;
    prmt.b32 $0, a, b, 0x5410; prmt.b32 $1, a, b, 0x7632;
    prmt.b32 $2, c, d, 0x5410; prmt.b32 $3, c, d, 0x7632;
}""")


@triton.jit
def _int4_planes(words, zeros):
    """Four bfloat16 tiles of code - zero; zeros int16 holds the bits of bfloat16 -(128 + zero)."""
    if INTERPRETED:
        offset = zeros.to(tl.bfloat16, bitcast=True).to(tl.float32) + 128.0
        return (
            ((words & 15).to(tl.float32) + offset).to(tl.float16),
            ((words >> 4 & 15).to(tl.float32) + offset).to(tl.float16),
            ((words >> 8 & 15).to(tl.float32) + offset).to(tl.float16),
            ((words >> 12 & 15).to(tl.float32) + offset).to(tl.float16),
        )
    return tl.inline_asm_elementwise(
        _INT4_ASM,
        "=r,=r,=r,=r,r,r",
        [words, zeros],
        dtype=(tl.bfloat16, tl.bfloat16, tl.bfloat16, tl.bfloat16),
        is_pure=True,
        pack=2,
    )


@triton.jit
def _nf4_planes(words, TABLE):
    """Four bfloat16 tiles of NF4's values. The assembly has them built in; the interpreter reads TABLE (16,)."""
    if INTERPRETED:
        return (
            tl.load(TABLE + (words & 15)).to(tl.float16),
            tl.load(TABLE + (words >> 4 & 15)).to(tl.float16),
            tl.load(TABLE + (words >> 8 & 15)).to(tl.float16),
            tl.load(TABLE + (words >> 12 & 15)).to(tl.float16),
        )
    return tl.inline_asm_elementwise(
        _NF4_ASM,
        "=r,=r,=r,=r,r",
        [words],
        dtype=(tl.bfloat16, tl.bfloat16, tl.bfloat16, tl.bfloat16),
        is_pure=True,
        pack=2,
    )


@triton.jit
def _planes(
    words, ZEROS, group, n, in_n, N, KIND: tl.constexpr, SYMMETRIC: tl.constexpr, BLOCK_N: tl.constexpr
):  # fmt: skip
    """The four bfloat16 tiles of a tile of words."""
    if KIND == NF4:
        w0, w1, w2, w3 = _nf4_planes(words, ZEROS)
    elif SYMMETRIC:
        w0, w1, w2, w3 = _int4_planes(words, tl.full((BLOCK_N, 32), -15608, tl.int16))  # bfloat16 -136
    else:
        zeros = tl.load(ZEROS + group * N + n, mask=in_n, other=0)
        w0, w1, w2, w3 = _int4_planes(words, tl.broadcast_to(zeros[:, None], (BLOCK_N, 32)))
    return w0, w1, w2, w3


@triton.jit
def _tile_product(
    W, SCALES, ZEROS, tile, n, in_n, x0, x1, x2, x3, N,
    KIND: tl.constexpr, GROUP: tl.constexpr, SYMMETRIC: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """float32 (BLOCK_N, BLOCK_M): rows n of W, of N in all, times one tile of inputs."""
    i = tl.arange(0, 32)
    words = tl.load(W + (tile * N + n[:, None]) * 32 + i[None, :], mask=in_n[:, None], other=0)
    group = tile * 128 // GROUP
    scale = tl.load(SCALES + group * N + n, mask=in_n, other=0.0).to(tl.float32)
    w0, w1, w2, w3 = _planes(words, ZEROS, group, n, in_n, N, KIND, SYMMETRIC, BLOCK_N)
    if GROUP == 64:
        following = tl.load(SCALES + (group + 1) * N + n, mask=in_n, other=0.0).to(tl.float32)
        product = tl.dot(w1, x1, tl.dot(w0, x0)) * scale[:, None]
        product += tl.dot(w3, x3, tl.dot(w2, x2)) * following[:, None]
    else:
        product = tl.dot(w3, x3, tl.dot(w2, x2, tl.dot(w1, x1, tl.dot(w0, x0)))) * scale[:, None]
    return product


@triton.jit
def quantised_matmul_kernel(
    X, W, SCALES, ZEROS, OUT, PARTS, ARRIVED, SQUARES, RESIDUAL, WEIGHT, TOTAL, NEW_SQUARES,
    rows, N, eps, K: tl.constexpr,
    KIND: tl.constexpr, GROUP: tl.constexpr, SYMMETRIC: tl.constexpr,
    GATED: tl.constexpr, SCALED: tl.constexpr, ADDED: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, SPLIT: tl.constexpr, OVERLAP: tl.constexpr,
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
    i = tl.arange(0, 32)
    in_n, in_m = n < N, m < rows
    W_ROWS = 2 * N if GATED else N
    per: tl.constexpr = (K // 128 + SPLIT - 1) // SPLIT
    first = part * per
    if OVERLAP:  # eight tiles of words, whose rows are half a line each
        line = tl.arange(0, 4 * BLOCK_N)
        tiles = tl.minimum(first + line // (BLOCK_N // 2), K // 128 - 1)
        ahead = tl.minimum(pid * BLOCK_N + line % (BLOCK_N // 2) * 2, N - 1)
        prefetch(W + (tiles * W_ROWS + ahead) * 32)
        if GATED:
            prefetch(W + (tiles * W_ROWS + N + ahead) * 32)
    begin(OVERLAP)
    factor = tl.full((BLOCK_M,), 1.0, tl.float32)
    if SCALED > 0:
        p = tl.arange(0, 64)
        inside = in_m[:, None] & (p[None, :] < SCALED)
        squares = tl.load(SQUARES + m[:, None] * SCALED + p[None, :], mask=inside, other=0.0)
        factor = tl.rsqrt(tl.sum(squares, 1) / K + eps)
    total = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    ups = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    for tile in range(first, tl.minimum(first + per, K // 128)):
        x = X + m[None, :] * K + tile * 128 + i[:, None]
        x0 = tl.load(x, mask=in_m[None, :], other=0.0)
        x1 = tl.load(x + 32, mask=in_m[None, :], other=0.0)
        x2 = tl.load(x + 64, mask=in_m[None, :], other=0.0)
        x3 = tl.load(x + 96, mask=in_m[None, :], other=0.0)
        total += _tile_product(W, SCALES, ZEROS, tile, n, in_n, x0, x1, x2, x3, W_ROWS, KIND, GROUP, SYMMETRIC, BLOCK_N)
        if GATED:
            ups += _tile_product(
                W, SCALES, ZEROS, tile, n + N, in_n, x0, x1, x2, x3, W_ROWS, KIND, GROUP, SYMMETRIC, BLOCK_N
            )
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
        total = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
        ups = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
        for other in range(SPLIT):
            total += tl.load(PARTS + other * each * size + here, mask=in_out, other=0.0, cache_modifier=".cg")
            if GATED:
                theirs = PARTS + (other * each + 1) * size + here
                ups += tl.load(theirs, mask=in_out, other=0.0, cache_modifier=".cg")
        tl.store(ARRIVED + pid, 0)
    total *= factor[None, :]
    if GATED:
        total = total * tl.sigmoid(total) * ups * factor[None, :]
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
    group = tile * 128 // GROUP
    scale = tl.load(SCALES + group * N + n, mask=in_n, other=0.0).to(tl.float32)[:, None]
    after = scale
    if GROUP == 64:
        after = tl.load(SCALES + (group + 1) * N + n, mask=in_n, other=0.0).to(tl.float32)[:, None]
    w0, w1, w2, w3 = _planes(words, ZEROS, group, n, in_n, N, KIND, SYMMETRIC, BLOCK_N)
    out = OUT + n[:, None].to(tl.int64) * K + tile * 128 + i[None, :]
    tl.store(out, (w0.to(tl.float32) * scale).to(OUT.dtype.element_ty), mask=in_n[:, None])
    tl.store(out + 32, (w1.to(tl.float32) * scale).to(OUT.dtype.element_ty), mask=in_n[:, None])
    tl.store(out + 64, (w2.to(tl.float32) * after).to(OUT.dtype.element_ty), mask=in_n[:, None])
    tl.store(out + 96, (w3.to(tl.float32) * after).to(OUT.dtype.element_ty), mask=in_n[:, None])
