"""Steps of the engine as tensor work on one device: prefill a chunk, draw the first token, decode one step.

What a request's next step needs (newest token, position, random stream, settings) lives on the device, one row
per slot, and each step leaves it ready for the next. The host launches a step without having seen the result
of the one before, and reads results when they are there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Protocol

import torch

from deployments.llm.model import Chunk, KVCache, SlotModel
from deployments.llm.sampling import (
    CYCLE_COLUMNS,
    STOP_COLUMNS,
    WINDOW,
    Draws,
    cycle_mask,
    cycle_rows,
    draw,
    forbid_repeats,
)
from deployments.types import AUDIO_CODES, Sampling


class Result(Protocol):
    """Tokens of one launched step, in the order of the slots it was launched for."""

    def tokens(self) -> list[int]:
        """Wait for them."""


@dataclass(frozen=True)
class SlotState:
    """One row per slot and one more that padding rows write to; int64 unless said otherwise."""

    token: torch.Tensor
    position: torch.Tensor
    history: torch.Tensor  # (slots + 1, WINDOW)
    seed: torch.Tensor
    step: torch.Tensor
    temperature: torch.Tensor  # float32
    top_k: torch.Tensor
    cycle: torch.Tensor  # bool

    @classmethod
    def allocate(cls, slots: int, device: torch.device) -> "SlotState":
        def row(dtype: torch.dtype = torch.int64, *shape: int) -> torch.Tensor:
            return torch.zeros(slots + 1, *shape, dtype=dtype, device=device)

        floats, bools = torch.float32, torch.bool
        return cls(row(), row(), row(torch.int64, WINDOW), row(), row(), row(floats), row(), row(bools))

    def at(self, slots: torch.Tensor) -> "SlotState":
        """The rows of some slots."""
        return SlotState(*(getattr(self, field.name)[slots] for field in fields(self)))

    @property
    def draws(self) -> Draws:
        return Draws(self.history, self.seed, self.step, self.temperature, self.top_k)


@dataclass(frozen=True)
class Vocabulary:
    """Ids that matter to sampling: of ``<audio_0>``, and of the tokens that end a generation."""

    audio: int
    stops: tuple[int, ...]


class Sampler:
    """Hidden states to next tokens, for rows with and without the code cycle."""

    def __init__(self, head: torch.Tensor, vocabulary: Vocabulary) -> None:
        """head (vocab, hidden). Without stops a generation ends by its budget only."""
        audio = range(vocabulary.audio, vocabulary.audio + AUDIO_CODES)
        unused = [vocabulary.audio] * (STOP_COLUMNS - len(vocabulary.stops))
        self._ids = torch.tensor([*audio, *vocabulary.stops, *unused], device=head.device)  # (CYCLE_COLUMNS,)
        self._audio = vocabulary.audio
        self._head = head
        self._cycle_head = head[self._ids]
        self._mask = cycle_mask(head.device, len(vocabulary.stops))

    def __call__(self, hidden: torch.Tensor, state: SlotState, wide: bool) -> torch.Tensor:
        """hidden (rows or more, hidden_size), the state of some rows -> ids int64 (rows,).

        ``wide``: some rows may be unconstrained, or take more than the best columns.
        """
        logits = torch.nn.functional.linear(hidden, self._cycle_head)[: len(state.token)].float()
        assert logits.shape[1] == CYCLE_COLUMNS
        logits = forbid_repeats(logits, state.history, self._audio)
        logits = logits.masked_fill(~self._mask[cycle_rows(state.step)], float("-inf"))
        ids = self._ids[draw(logits, state.draws, wide)]
        return torch.where(state.cycle, ids, self._unconstrained(hidden, state)) if wide else ids

    def _unconstrained(self, hidden: torch.Tensor, state: SlotState) -> torch.Tensor:
        logits = torch.nn.functional.linear(hidden, self._head)[: len(state.token)].float()
        return draw(forbid_repeats(logits, state.history), state.draws, wide=True)


@dataclass(frozen=True)
class _Known:
    """A step's tokens that are already on the host."""

    values: list[int]

    def tokens(self) -> list[int]:
        return self.values


class Runner:
    """Eager steps on any device; see ``graphs`` for the captured ones.

    ``bucket`` maps a number of active slots to the number of rows to run. On a CPU every step runs all slots:
    a matrix product of one row differs from one of many in the last bits, and results must not depend on company.
    """

    def __init__(
        self, model: SlotModel, cache: KVCache, vocabulary: Vocabulary, bucket: Callable[[int], int] | None = None
    ) -> None:
        self.model = model
        self.slots = cache.slots
        self.max_length = cache.max_length
        self.device = cache.keys.device
        self.state = SlotState.allocate(cache.slots, self.device)
        self.sampler = Sampler(model.weights.head, vocabulary)
        self._bucket = bucket or (lambda _active: self.slots)
        self._last: dict[int, torch.Tensor] = {}
        self._wide: set[int] = set()

    def begin(self, slot: int, sampling: Sampling, prompt: Sequence[int]) -> None:
        """Take a slot for a prompt and set its row of the state."""
        tail = list(prompt[-WINDOW:])
        history = torch.tensor([-1] * (WINDOW - len(tail)) + tail)
        seed = sampling.seed & 0x7FFF_FFFF_FFFF_FFFF
        values = (0, len(prompt) - 1, history, seed, 0, sampling.temperature, sampling.top_k, sampling.cycle)
        for field, value in zip(fields(self.state), values, strict=True):
            row = getattr(self.state, field.name)[slot]
            row.copy_(value if isinstance(value, torch.Tensor) else torch.tensor(value, dtype=row.dtype))
        (self._wide.discard if sampling.cycle and sampling.top_k else self._wide.add)(slot)

    @torch.inference_mode()
    def prefill(self, slot: int, ids: Sequence[int], start: int) -> None:
        """Run a chunk of the slot's prompt; ``start`` is the position of its first token."""
        chunk = Chunk(self._tensor([slot]), self._tensor([start]))
        self._last[slot] = self.model.prefill(self._tensor(ids), chunk)[-1:]

    @torch.inference_mode()
    def first(self, slot: int) -> Result:
        """Draw the first token after the last chunk of a prompt."""
        slots = self._tensor([slot])
        return _Known(self.advance(slots, self._last.pop(slot), slot in self._wide).tolist())

    @torch.inference_mode()
    def decode(self, active: Sequence[int]) -> Result:
        """One step of the active slots, each of which has a newest token."""
        rows = self._bucket(len(active))
        slots = self._tensor([*active, *[self.slots] * (rows - len(active))])
        state = self.state.at(slots)
        hidden = self.model.decode(state.token, slots, state.position)
        return _Known(self.advance(slots[: len(active)], hidden, not self._wide.isdisjoint(active)).tolist())

    def advance(self, slots: torch.Tensor, hidden: torch.Tensor, wide: bool) -> torch.Tensor:
        """Draw the next token of each slot and make it the newest: ids int64 (slots,)."""
        state = self.state.at(slots)
        ids = self.sampler(hidden, state, wide)
        self.state.token[slots] = ids
        self.state.position[slots] = state.position + 1
        self.state.step[slots] = state.step + 1
        self.state.history[slots] = torch.cat([state.history[:, 1:], ids[:, None]], dim=1)
        return ids

    def _tensor(self, values: Sequence[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self.device)
