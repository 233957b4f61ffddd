"""Is this speech? Checks of what came out that need no model."""

import numpy as np

from deployments.types import Generation, Sampling

FLAWS = ("empty", "silent", "clipped", "runaway")
_SILENCE = 1e-3
_FULL_SCALE = 0.985
_CLIPPED_SHARE = 0.02


def flaws(samples: np.ndarray) -> frozenset[str]:
    """What is wrong with float32 samples (n,) in [-1, 1]: empty, silent (under -60 dB), clipped (over 2 % of them)."""
    if not len(samples):
        return frozenset({"empty"})
    level = np.abs(samples)
    found = {"silent"} if level.max() < _SILENCE else set()
    if (level > _FULL_SCALE).mean() > _CLIPPED_SHARE:
        found.add("clipped")
    return frozenset(found)


def ran_away(generation: Generation, sampling: Sampling) -> frozenset[str]:
    """Whether the model was still speaking when the budget that its text allows was used up."""
    budget_ended_it = generation.finish_reason == "length" and sampling.max_new_tokens is None
    return frozenset({"runaway"} if budget_ended_it else ())
