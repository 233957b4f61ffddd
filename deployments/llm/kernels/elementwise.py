"""Norms, the gate, and products of a matrix with one vector."""

import triton
import triton.language as tl

from deployments.llm.kernels.overlap import begin, prefetch


@triton.jit
def norm_kernel(X, WEIGHT, OUT, eps, N: tl.constexpr, BLOCK: tl.constexpr, OVERLAP: tl.constexpr):
    """RMS norm of X (rows, N), a row per program."""
    begin(OVERLAP)
    row = tl.program_id(0)
    i = tl.arange(0, BLOCK)
    x = tl.load(X + row * N + i, mask=i < N, other=0.0).to(tl.float32)
    weight = tl.load(WEIGHT + i, mask=i < N, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(x * x) / N + eps)
    tl.store(OUT + row * N + i, (x * scale * weight).to(OUT.dtype.element_ty), mask=i < N)


@triton.jit
def add_norm_kernel(
    X, RESIDUAL, WEIGHT, TOTAL, OUT, eps, N: tl.constexpr, BLOCK: tl.constexpr, OVERLAP: tl.constexpr
):  # fmt: skip
    """TOTAL = X + RESIDUAL and its RMS norm, a row per program."""
    begin(OVERLAP)
    row = tl.program_id(0)
    i = tl.arange(0, BLOCK)
    x = tl.load(X + row * N + i, mask=i < N, other=0.0).to(tl.float32)
    residual = tl.load(RESIDUAL + row * N + i, mask=i < N, other=0.0).to(tl.float32)
    weight = tl.load(WEIGHT + i, mask=i < N, other=0.0).to(tl.float32)
    total = (x + residual).to(TOTAL.dtype.element_ty)
    tl.store(TOTAL + row * N + i, total, mask=i < N)
    x = total.to(tl.float32)
    scale = tl.rsqrt(tl.sum(x * x) / N + eps)
    tl.store(OUT + row * N + i, (x * scale * weight).to(OUT.dtype.element_ty), mask=i < N)


@triton.jit
def gate_kernel(X, OUT, N: tl.constexpr, BLOCK: tl.constexpr, OVERLAP: tl.constexpr):
    """silu(gate) * up of X (rows, 2 N), the gates first."""
    begin(OVERLAP)
    row = tl.program_id(0)
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    gate = tl.load(X + row * 2 * N + i, mask=i < N, other=0.0).to(tl.float32)
    up = tl.load(X + row * 2 * N + N + i, mask=i < N, other=0.0).to(tl.float32)
    tl.store(OUT + row * N + i, (gate * tl.sigmoid(gate) * up).to(OUT.dtype.element_ty), mask=i < N)


@triton.jit
def settle_kernel(
    X, SQUARES, OUT, eps, PARTS: tl.constexpr, N: tl.constexpr, P: tl.constexpr, BLOCK: tl.constexpr,
    OVERLAP: tl.constexpr,
):  # fmt: skip
    """X (rows, N) times the factor of its RMS norm, from the PARTS parts of its sums of squares."""
    begin(OVERLAP)
    row = tl.program_id(0)
    i, p = tl.arange(0, BLOCK), tl.arange(0, P)
    squares = tl.sum(tl.load(SQUARES + row * PARTS + p, mask=p < PARTS, other=0.0))
    x = tl.load(X + row * N + i, mask=i < N, other=0.0).to(tl.float32)
    tl.store(OUT + row * N + i, (x * tl.rsqrt(squares / N + eps)).to(OUT.dtype.element_ty), mask=i < N)


@triton.jit
def matvec_kernel(
    X, W, OUT, N, K: tl.constexpr, GATED: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
    LINES: tl.constexpr, PREFETCH: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """W (N, K) times one vector X (K,) -> OUT (N,), some outputs per program.

    GATED: W is (2 N, K), gates first, and silu(gate) * up comes out. LINES is a power of two that holds the lines
    of a program's weights.
    """
    if PREFETCH:
        ahead = tl.minimum(tl.program_id(0) * ROWS * K + tl.arange(0, LINES) * 64, N * K - 1)
        prefetch(W + ahead)
        if GATED:
            prefetch(W + N * K + ahead)
    begin(OVERLAP)
    n = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    i = tl.arange(0, BLOCK)
    total = tl.zeros((ROWS, BLOCK), tl.float32)
    ups = tl.zeros((ROWS, BLOCK), tl.float32)
    w = W + n[:, None] * K + i[None, :]
    for start in tl.static_range(0, K, BLOCK):
        inside = (n[:, None] < N) & (start + i[None, :] < K)
        x = tl.load(X + start + i, mask=start + i < K, other=0.0).to(tl.float32)[None, :]
        total += tl.load(w + start, mask=inside, other=0.0).to(tl.float32) * x
        if GATED:
            ups += tl.load(w + N * K + start, mask=inside, other=0.0).to(tl.float32) * x
    out = tl.sum(total, 1)
    if GATED:
        out = out * tl.sigmoid(out) * tl.sum(ups, 1)
    tl.store(OUT + n, out.to(OUT.dtype.element_ty), mask=n < N)
