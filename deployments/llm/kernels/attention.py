"""Attention over cache slots, with grouped heads and the bias ``-slope * sqrt(distance)``.

Only the filled part of a slot is read. Lengths, slots and positions are read on the device, so that a captured
graph serves every state of the cache.
"""

import triton
import triton.language as tl

from deployments.llm.kernels.overlap import begin, prefetch


@triton.jit
def decode_kernel(
    QKV, KEYS, VALUES, SLOTS, POSITIONS, SLOPES, OUT, PARTS, ARRIVED,
    slots, max_length, scale,
    HEADS: tl.constexpr, GROUPS: tl.constexpr, DIM: tl.constexpr, PADDED: tl.constexpr,
    BLOCK: tl.constexpr, SPLIT: tl.constexpr, PREFETCH: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """One query per row: its key and value go into the cache, its heads attend. OUT (rows, HEADS * DIM).

    A program takes a row, a group of heads and a share of the keys; short rows have fewer shares than programs.
    PARTS float32 (rows, GROUPS, SPLIT, PADDED, DIM + 2) holds each share's sum, maximum and weight; the last program
    to arrive puts them together, in order.
    """
    row, group, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    slot = tl.load(SLOTS + row)
    if slot >= slots:
        return
    position = tl.load(POSITIONS + row).to(tl.int32)
    share = tl.cdiv(tl.cdiv(position, BLOCK), SPLIT) * BLOCK
    shares = tl.maximum(tl.cdiv(position, tl.maximum(share, 1)), 1)
    if part >= shares:
        return
    base = (slot * GROUPS + group).to(tl.int64) * max_length * DIM
    if PREFETCH:
        line = tl.arange(0, BLOCK * DIM // 64) * 64
        ahead = base + tl.minimum(part * share * DIM + line, position * DIM)
        prefetch(KEYS + ahead)
        prefetch(VALUES + ahead)
    begin(OVERLAP)
    PER: tl.constexpr = HEADS // GROUPS
    h, d = tl.arange(0, PADDED), tl.arange(0, DIM)
    head = group * PER + h
    qkv = QKV + row * (HEADS + 2 * GROUPS) * DIM
    query = tl.load(qkv + head[:, None] * DIM + d[None, :], mask=h[:, None] < PER, other=0.0)
    slope = tl.load(SLOPES + head, mask=h < PER, other=0.0)

    best = tl.full((PADDED,), float("-inf"), tl.float32)
    weight = tl.zeros((PADDED,), tl.float32)
    out = tl.zeros((PADDED, DIM), tl.float32)
    if part == 0:  # the new key, which is not in the cache yet
        key = tl.load(qkv + (HEADS + group) * DIM + d)
        value = tl.load(qkv + (HEADS + GROUPS + group) * DIM + d)
        tl.store(KEYS + base + position * DIM + d, key)
        tl.store(VALUES + base + position * DIM + d, value)
        best = tl.sum(query.to(tl.float32) * key.to(tl.float32)[None, :], 1) * scale
        weight += 1.0
        out += value.to(tl.float32)[None, :]

    for start in range(part * share, tl.minimum((part + 1) * share, position), BLOCK):
        at = start + tl.arange(0, BLOCK)
        place = base + at[:, None] * DIM + d[None, :]
        best, weight, out = _attend_block(
            query, slope, KEYS, VALUES, place, at, position, scale, best, weight, out
        )  # fmt: skip

    if shares > 1:
        stride: tl.constexpr = PADDED * (DIM + 2)
        parts = PARTS + (row * GROUPS + group) * SPLIT * stride
        mine = parts + part * stride
        tl.store(mine + h[:, None] * DIM + d[None, :], out)
        tl.store(mine + PADDED * DIM + h, best)
        tl.store(mine + PADDED * (DIM + 1) + h, weight)
        tl.debug_barrier()
        if tl.atomic_add(ARRIVED + row * GROUPS + group, 1, sem="acq_rel") == shares - 1:
            out, weight = _combine(parts, shares, h, d, PADDED, DIM, SPLIT)
            tl.store(ARRIVED + row * GROUPS + group, 0)
            _store(OUT, out, weight, row, head, h, d, HEADS, PER, DIM)
    else:
        _store(OUT, out, weight, row, head, h, d, HEADS, PER, DIM)


@triton.jit
def _combine(parts, shares, h, d, PADDED: tl.constexpr, DIM: tl.constexpr, SPLIT: tl.constexpr):
    """Sums (PADDED, DIM) and weights (PADDED,) of all shares, relative to the highest score."""
    stride: tl.constexpr = PADDED * (DIM + 2)
    s = tl.arange(0, SPLIT)
    stats = parts + s[:, None] * stride + h[None, :]
    there = s[:, None] < shares
    tops = tl.load(stats + PADDED * DIM, mask=there, other=float("-inf"), cache_modifier=".cg")
    weights = tl.load(stats + PADDED * (DIM + 1), mask=there, other=0.0, cache_modifier=".cg")
    highest = tl.max(tops, 0)  # finite: the first share has the new key
    weight = tl.sum(weights * tl.exp(tops - highest[None, :]), 0)
    out = tl.zeros((PADDED, DIM), tl.float32)
    for other in tl.static_range(SPLIT):
        theirs = parts + other * stride
        top = tl.load(theirs + PADDED * DIM + h, mask=other < shares, other=float("-inf"), cache_modifier=".cg")
        place = theirs + h[:, None] * DIM + d[None, :]
        sums = tl.load(place, mask=other < shares, other=0.0, cache_modifier=".cg")
        out += sums * tl.exp(top - highest)[:, None]
    return out, weight


@triton.jit
def _attend_block(query, slope, KEYS, VALUES, place, at, position, scale, best, weight, out):
    """One more block of keys at positions ``at``, earlier than ``position``: the running maximum, weight and sum."""
    inside = at[:, None] < position
    key = tl.load(KEYS + place, mask=inside, other=0.0)
    value = tl.load(VALUES + place, mask=inside, other=0.0)
    distance = tl.maximum(position - at, 0).to(tl.float32)
    score = tl.dot(query, tl.trans(key)) * scale - slope[:, None] * tl.sqrt(distance)[None, :]
    score = tl.where(at[None, :] < position, score, float("-inf"))
    higher = tl.maximum(best, tl.max(score, 1))
    fade = tl.exp(best - higher)
    chance = tl.exp(score - higher[:, None])
    weight = weight * fade + tl.sum(chance, 1)
    return higher, weight, out * fade[:, None] + tl.dot(chance.to(value.dtype), value)


@triton.jit
def _store(OUT, out, weight, row, head, h, d, HEADS: tl.constexpr, PER: tl.constexpr, DIM: tl.constexpr):
    place = OUT + row * HEADS * DIM + head[:, None] * DIM + d[None, :]
    tl.store(place, (out / weight[:, None]).to(OUT.dtype.element_ty), mask=h[:, None] < PER)


@triton.jit
def write_kernel(
    QKV, KEYS, VALUES, SLOT, START, max_length, HEADS: tl.constexpr, GROUPS: tl.constexpr, DIM: tl.constexpr
):  # fmt: skip
    """Keys and values of a chunk into the cache, a row and group per program. What lies beyond the slot is dropped."""
    row, group = tl.program_id(0), tl.program_id(1)
    position = tl.load(START).to(tl.int32) + row
    if position >= max_length:
        return
    d = tl.arange(0, DIM)
    qkv = QKV + row * (HEADS + 2 * GROUPS) * DIM
    place = ((tl.load(SLOT) * GROUPS + group).to(tl.int64) * max_length + position) * DIM + d
    tl.store(KEYS + place, tl.load(qkv + (HEADS + group) * DIM + d))
    tl.store(VALUES + place, tl.load(qkv + (HEADS + GROUPS + group) * DIM + d))


@triton.jit
def prefill_kernel(
    QKV, KEYS, VALUES, SLOT, START, SLOPES, OUT,
    rows, max_length, scale,
    HEADS: tl.constexpr, GROUPS: tl.constexpr, DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """A chunk's queries against the slot's keys, the chunk's own included: one block and head per program."""
    block, head = tl.program_id(0), tl.program_id(1)
    start = tl.load(START).to(tl.int32)
    base = (tl.load(SLOT) * GROUPS + head // (HEADS // GROUPS)).to(tl.int64) * max_length * DIM
    m, d = block * BLOCK_M + tl.arange(0, BLOCK_M), tl.arange(0, DIM)
    query = tl.load(
        QKV + m[:, None] * (HEADS + 2 * GROUPS) * DIM + head * DIM + d[None, :], mask=m[:, None] < rows, other=0.0
    )
    slope = tl.load(SLOPES + head)
    at_query = start + m
    best = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    weight = tl.zeros((BLOCK_M,), tl.float32)
    out = tl.zeros((BLOCK_M, DIM), tl.float32)
    end = tl.minimum(start + (block + 1) * BLOCK_M, max_length)
    for first in range(0, end, BLOCK_N):
        at = first + tl.arange(0, BLOCK_N)
        place = base + at[:, None] * DIM + d[None, :]
        key = tl.load(KEYS + place, mask=at[:, None] < end, other=0.0)
        value = tl.load(VALUES + place, mask=at[:, None] < end, other=0.0)
        distance = at_query[:, None] - at[None, :]
        bias = slope * tl.sqrt(tl.maximum(distance, 0).to(tl.float32))
        score = tl.where(distance >= 0, tl.dot(query, tl.trans(key)) * scale - bias, float("-inf"))
        higher = tl.maximum(best, tl.max(score, 1))
        fade = tl.exp(best - higher)
        chance = tl.exp(score - higher[:, None])
        weight = weight * fade + tl.sum(chance, 1)
        out = out * fade[:, None] + tl.dot(chance.to(value.dtype), value)
        best = higher
    place = OUT + m[:, None] * HEADS * DIM + head * DIM + d[None, :]
    tl.store(place, (out / weight[:, None]).to(OUT.dtype.element_ty), mask=m[:, None] < rows)
