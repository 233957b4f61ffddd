"""Seeded Gaussian noise, the same on every device and however it is split into pieces.

The published code draws the flow's noise once, without a seed, and the source's anew for every clip. Here both follow
the request's seed, so that the same seed gives the same samples.
"""

from dataclasses import dataclass, field

import numpy as np
import torch

_FLOW, _SOURCE = 0, 1


@dataclass
class Noise:
    """The two noises of one clip or stream. Successive calls continue where the last one stopped."""

    seed: int
    _flow: np.random.Generator = field(init=False)
    _source: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self._flow, self._source = (
            np.random.Generator(np.random.SFC64(np.random.SeedSequence([abs(self.seed), purpose])))
            for purpose in (_FLOW, _SOURCE)
        )

    def flow(self, frames: int, bands: int) -> torch.Tensor:
        """Where the solver starts: (frames, bands)."""
        return torch.from_numpy(self._flow.standard_normal((frames, bands), dtype=np.float32))

    def source(self, samples: int) -> torch.Tensor:
        """HiFT's unvoiced excitation: (samples,)."""
        return torch.from_numpy(self._source.standard_normal(samples, dtype=np.float32))
