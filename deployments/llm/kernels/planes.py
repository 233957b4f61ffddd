"""Words of four 4-bit codes to tiles of bfloat16, in registers.

Integers become bfloat16 by bit tricks (0x4300 | q is 128 + q) and NF4 codes by byte permutes out of a table that
the instructions hold: neither a conversion nor memory is involved.
"""

import os

import triton
import triton.language as tl

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
def planes(
    words, ZEROS, group, n, in_n, N, KIND: tl.constexpr, SYMMETRIC: tl.constexpr, BLOCK_N: tl.constexpr
):  # fmt: skip
    """The four bfloat16 tiles of a tile of words. ZEROS int16 (groups, N): bits of -(128 + zero), or a table."""
    if KIND == NF4:
        w0, w1, w2, w3 = _nf4_planes(words, ZEROS)
    elif SYMMETRIC:
        w0, w1, w2, w3 = _int4_planes(words, tl.full((BLOCK_N, 32), -15608, tl.int16))  # bfloat16 -136
    else:
        zeros = tl.load(ZEROS + group * N + n, mask=in_n, other=0)
        w0, w1, w2, w3 = _int4_planes(words, tl.broadcast_to(zeros[:, None], (BLOCK_N, 32)))
    return w0, w1, w2, w3
