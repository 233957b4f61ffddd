"""Drawing the next token, for a batch of requests that each have their own settings and random stream.

In this order: repetition rule, temperature, top-k, draw. Draws are by the Gumbel trick with noise that is a hash
of (seed, step, column): no state, nothing shared, so what else is in the batch never changes a request's draw,
and the same request gives the same tokens on every machine that computes the same logits.

With the code cycle on, what cannot follow is removed first: the top k are taken among the codes of the codebook
whose turn it is, and the end where it may follow. The unconstrained path takes them among the whole vocabulary.
"""

from dataclasses import dataclass

import torch

from deployments.types import AUDIO_CODES, GROUP, GROUP_SIZE, VQ02_CODES

WINDOW = 10
"""How many ids the repetition rule looks back on."""
MAX_TOP_K = 100
STOP_COLUMNS = 2
CYCLE_COLUMNS = AUDIO_CODES + STOP_COLUMNS
"""Columns of constrained logits: every audio code, then the two ids that end a generation."""
_MASK = 0xFFFFFFFF


@dataclass(frozen=True)
class Draws:
    """One row per request. history int64 (rows, WINDOW), the newest last; the others (rows,).

    step counts the tokens drawn so far; temperature 0 is greedy, top_k 0 takes every column.
    """

    history: torch.Tensor
    seed: torch.Tensor
    step: torch.Tensor
    temperature: torch.Tensor
    top_k: torch.Tensor


def forbid_repeats(logits: torch.Tensor, history: torch.Tensor, first: int = 0) -> torch.Tensor:
    """The repetition rule: an id that is newest and occurs again among the last ten cannot follow.

    logits (rows, columns) of the ids from ``first`` on; history (rows, WINDOW).
    """
    newest = history[:, -1:]
    repeats = (history == newest).sum(1, keepdim=True) > 1
    columns = torch.arange(first, first + logits.shape[1], device=logits.device)
    return logits.masked_fill(repeats & (columns == newest), float("-inf"))


def cycle_mask(device: torch.device, stops: int = STOP_COLUMNS) -> torch.Tensor:
    """What may follow: bool (GROUP_SIZE + 1, CYCLE_COLUMNS) by place in the group; the last row is the very start.

    The end may follow a whole group only, and never comes before the first; ``stops`` of its columns are in use.
    """
    mask = torch.zeros(GROUP_SIZE + 1, CYCLE_COLUMNS, dtype=torch.bool, device=device)
    mask[: GROUP[0], :VQ02_CODES] = True
    mask[GROUP[0] : GROUP_SIZE, VQ02_CODES:AUDIO_CODES] = True
    mask[GROUP_SIZE] = mask[0]
    mask[0, AUDIO_CODES : AUDIO_CODES + stops] = True
    return mask


def cycle_rows(step: torch.Tensor) -> torch.Tensor:
    """The row of ``cycle_mask`` for each count of drawn tokens (rows,)."""
    return torch.where(step == 0, GROUP_SIZE, step % GROUP_SIZE)


def _mix(x: torch.Tensor) -> torch.Tensor:
    """A 32-bit integer hash (lowbias32), in int64 so that every device has the operations."""
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & _MASK
    x = ((x ^ (x >> 15)) * 0x846CA68B) & _MASK
    return x ^ (x >> 16)


def stream_keys(seed: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    """What the noise of a draw follows from: int64 (rows,), 32 bits."""
    low, high = _mix(seed & _MASK), (seed >> 32) & _MASK
    return _mix((_mix(low ^ high) + step * 0x9E3779B9) & _MASK)


def gumbel(seed: torch.Tensor, step: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Gumbel noise float32 from (seed, step, column): columns (rows or 1, n) -> (rows, n)."""
    key = stream_keys(seed, step)[:, None]
    bits = _mix((_mix(key ^ (columns * 0x9E3779B9 & _MASK)) + key) & _MASK) >> 8
    uniform = (bits.float() + 0.5) * 2.0**-24
    return -torch.log(-torch.log(uniform))


def draw(logits: torch.Tensor, draws: Draws, wide: bool = False) -> torch.Tensor:
    """Columns drawn from float32 logits (rows, columns), repeats already forbidden: int64 (rows,).

    Only the MAX_TOP_K best are looked at, unless ``wide``: rows with top_k 0 need it. A column's noise is the
    same either way.
    """
    best, columns = torch.topk(logits, min(MAX_TOP_K, logits.shape[1]), dim=1)
    last = (draws.top_k.clamp(1, best.shape[1]) - 1)[:, None]
    threshold = best.gather(1, last).masked_fill(draws.top_k[:, None] == 0, float("-inf"))
    if wide:
        best, columns = logits, torch.arange(logits.shape[1], device=logits.device)[None]
    greedy = draws.temperature[:, None] == 0
    noise = gumbel(draws.seed, draws.step, columns).masked_fill(greedy, 0.0)
    scored = best / draws.temperature[:, None].masked_fill(greedy, 1.0) + noise
    winner = scored.masked_fill(best < threshold, float("-inf")).argmax(1, keepdim=True)
    return columns.expand_as(scored).gather(1, winner)[:, 0]
