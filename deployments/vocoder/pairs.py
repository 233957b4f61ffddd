"""Audio codes as the flow wants them: pairs of a VQ02 and a VQ06 entry at 25 Hz.

A group of five codes (2 VQ02, 3 VQ06, 0.12 s) becomes three pairs: the VQ02 row is stretched with a filler, the
VQ06 row is moved up by one because the filler took the entry between the two codebooks.
"""

import numpy as np
import torch

from deployments.errors import InvalidInputError
from deployments.types import AUDIO_CODES, GROUP, GROUP_SIZE, VQ02_CODES

FILLER = VQ02_CODES
PAIRS_PER_GROUP = GROUP[1]
_ENDING = np.array([0, 0, 0, VQ02_CODES, VQ02_CODES, VQ02_CODES])


def to_pairs(codes: np.ndarray) -> torch.Tensor:
    """Interleaved codes (n,), 0..5119, to pairs (3 * ceil(n / 5), 2), int64.

    An unfinished last group is completed with the codebooks' first entries, as the model was trained to see them.
    Raises InvalidInputError for no codes at all, or codes outside of the codebooks.
    """
    if codes.ndim != 1 or codes.size == 0:
        raise InvalidInputError("no audio codes to synthesize", None, "audio_codes_empty")
    if codes.min() < 0 or codes.max() >= AUDIO_CODES:
        raise InvalidInputError(f"audio codes must be 0 to {AUDIO_CODES - 1}", None, "audio_codes_out_of_range")
    missing = -codes.size % GROUP_SIZE
    whole = np.concatenate([codes, _ENDING[_ENDING.size - missing :]]).astype(np.int64)
    groups = whole.reshape(-1, GROUP_SIZE)
    first = np.concatenate([groups[:, : GROUP[0]], np.full((len(groups), 1), FILLER)], axis=1)
    second = groups[:, GROUP[0] :] + 1
    return torch.from_numpy(np.stack([first.reshape(-1), second.reshape(-1)], axis=1))
