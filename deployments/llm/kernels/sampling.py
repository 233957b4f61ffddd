"""Drawing the next code of each row and moving its state on, in one kernel. See ``llm.sampling`` for what it does."""

import triton
import triton.language as tl

from deployments.llm.kernels.overlap import begin


@triton.jit
def _mix(x):
    """A 32-bit integer hash (lowbias32)."""
    x = (x ^ (x >> 16)) * 0x7FEB352D
    x = (x ^ (x >> 15)) * 0x846CA68B
    return x ^ (x >> 16)


@triton.jit
def _gumbel(seed, step, column):
    low = _mix((seed & 0xFFFFFFFF).to(tl.uint32))
    high = ((seed >> 32) & 0xFFFFFFFF).to(tl.uint32)
    key = _mix(_mix(low ^ high) + step.to(tl.uint32) * 0x9E3779B9)
    bits = _mix(_mix(key ^ (column.to(tl.uint32) * 0x9E3779B9)) + key) >> 8
    uniform = (bits.to(tl.int32).to(tl.float32) + 0.5) * 5.9604644775390625e-08
    return -tl.log(-tl.log(uniform))


@triton.jit
def draw_kernel(
    LOGITS, IDS, STATE, SLOTS, OUT, slots, stops, audio, stride,
    FIRST_CODES: tl.constexpr, CODES: tl.constexpr, COLUMNS: tl.constexpr, WIDTH: tl.constexpr,
    WINDOW: tl.constexpr, GROUP_FIRST: tl.constexpr, GROUP: tl.constexpr, BLOCK: tl.constexpr,
    BITS: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """LOGITS (rows, stride) of the codes and the ends -> OUT int64 (rows,); a row per program.

    BITS: how many of a float32's upper bits LOGITS can set, 16 for bfloat16.
    STATE int64 (slots, WIDTH): token, position, seed, step, top_k, cycle, temperature's bits, the last WINDOW ids.
    """
    begin(OVERLAP)
    row = tl.program_id(0)
    slot = tl.load(SLOTS + row)
    if slot >= slots:
        return
    state = STATE + slot * WIDTH
    seed, step = tl.load(state + 2), tl.load(state + 3)
    top_k = tl.load(state + 4)
    temperature = tl.load(state + 6).to(tl.int32).to(tl.float32, bitcast=True)
    w = tl.arange(0, 16)
    history = tl.load(state + 7 + w, mask=w < WINDOW, other=-2)
    later = tl.load(state + 8 + w, mask=w < WINDOW - 1, other=-2)
    newest = tl.load(state + 6 + WINDOW)
    position = tl.load(state + 1)
    repeats = tl.sum((history == newest).to(tl.int32)) > 1

    c = tl.arange(0, BLOCK)
    place = step % GROUP
    code = tl.where(place < GROUP_FIRST, c < FIRST_CODES, (c >= FIRST_CODES) & (c < CODES))
    end = (place == 0) & (step > 0) & (c >= CODES) & (c < CODES + stops)
    allowed = (code | end) & ~(repeats & (c + audio == newest))
    logits = tl.load(LOGITS + row * stride + c, mask=c < COLUMNS, other=0.0).to(tl.float32)
    logits = tl.where(allowed, logits, float("-inf"))

    # The k-th best by bisection over the bits of its order-preserving integer.
    bits = logits.to(tl.int32, bitcast=True)
    order = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.uint32, bitcast=True) ^ 0x80000000
    kth = tl.full((), 0, tl.uint32)
    for bit in range(BITS):
        higher = kth | (tl.full((), 0x80000000, tl.uint32) >> bit)
        enough = tl.sum((order >= higher).to(tl.int32)) >= top_k
        kth = tl.where(enough & (top_k > 0), higher, kth)

    greedy = temperature == 0.0
    noise = tl.where(greedy, 0.0, _gumbel(seed, step, c))
    scored = logits / tl.where(greedy, 1.0, temperature) + noise
    scored = tl.where(allowed & (order >= kth), scored, float("-inf"))
    token = tl.load(IDS + tl.argmax(scored, 0))

    tl.store(OUT + row, token)
    tl.store(state, token)
    tl.store(state + 1, position + 1)
    tl.store(state + 3, step + 1)
    tl.store(state + 7 + w, tl.where(w == WINDOW - 1, token, later), mask=w < WINDOW)
