"""Kernels that begin before the one ahead of them has ended (programmatic dependent launch, sm_90 and later).

A kernel launched so may start once every program of the one ahead has passed its own ``begin``. Until it waits, it
may touch only what was written at least two kernels ago: weights, and the cache of earlier steps. It uses the time
to bring those into the L2 cache, so that the memory never rests while kernels change.
"""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
def begin(OVERLAP: tl.constexpr):
    """Wait for what the kernel ahead wrote, and let the next one start."""
    if OVERLAP:
        gdc_wait()
        gdc_launch_dependents()


@triton.jit
def prefetch(pointers):
    """Bring a tensor of addresses, one per line of 128 bytes, into the L2 cache."""
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; // $0", "=r,l", [pointers], dtype=tl.int32, is_pure=False, pack=1
    )
