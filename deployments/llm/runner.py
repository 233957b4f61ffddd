"""Steps of the engine as tensor work on one device: prefill a chunk, draw the first token, decode one step.

What a request's next step needs (newest token, position, random stream, settings) lives on the device, one row
per slot, and each step leaves it ready for the next. The host launches a step without having seen the result
of the one before, and reads results when they are there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
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


class SlotState:
    """What each slot's next step needs, as int64 rows: one per slot, and one more that padding rows write to.

    Columns: token, position, seed, step, top_k, cycle, the float32 bits of temperature, the last WINDOW ids.
    """

    WIDTH = 7 + WINDOW

    def __init__(self, rows: torch.Tensor) -> None:
        """rows int64 (rows, WIDTH)."""
        self.rows = rows
        self.token, self.position, self.seed, self.step, self.top_k = rows[:, :5].unbind(1)
        self.cycle = rows[:, 5].bool()
        self.history = rows[:, 7:]

    @classmethod
    def allocate(cls, slots: int, device: torch.device) -> "SlotState":
        return cls(torch.zeros(slots + 1, cls.WIDTH, dtype=torch.int64, device=device))

    @classmethod
    def row(cls, sampling: Sampling, prompt: Sequence[int]) -> torch.Tensor:
        """The row of a prompt whose first token is to be drawn: int64 (WIDTH,) on the host."""
        tail = list(prompt[-WINDOW:])
        temperature = torch.tensor(sampling.temperature, dtype=torch.float32).view(torch.int32).item()
        settings = [sampling.top_k, int(sampling.cycle), temperature]
        values = [tail[-1], len(prompt) - 1, sampling.seed & _SEED_MASK, 0, *settings]
        return torch.tensor([*values, *[-1] * (WINDOW - len(tail)), *tail])

    def at(self, slots: torch.Tensor) -> "SlotState":
        """A copy of some slots' rows."""
        return SlotState(self.rows[slots])

    def advance(self, slots: torch.Tensor, before: "SlotState", ids: torch.Tensor) -> None:
        """Make ids (slots,) the newest tokens of slots whose rows were ``before``."""
        moved = [ids, before.position + 1, before.seed, before.step + 1]
        kept = [before.rows[:, 4:7], before.history[:, 1:], ids[:, None]]
        self.rows[slots] = torch.cat([torch.stack(moved, 1), *kept], dim=1)

    @property
    def draws(self) -> Draws:
        temperature = self.rows[:, 6].to(torch.int32).view(torch.float32)
        return Draws(self.history, self.seed, self.step, temperature, self.top_k)


_SEED_MASK = 0x7FFF_FFFF_FFFF_FFFF


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
        self.ids = torch.tensor([*audio, *vocabulary.stops, *unused], device=head.device)  # (CYCLE_COLUMNS,)
        self.audio = vocabulary.audio
        self.stops = len(vocabulary.stops)
        self._head = head
        self.cycle_head = head[self.ids]
        self._mask = cycle_mask(head.device, len(vocabulary.stops))

    def __call__(self, hidden: torch.Tensor, state: SlotState, wide: bool) -> torch.Tensor:
        """hidden (rows or more, hidden_size), the state of some rows -> ids int64 (rows,).

        ``wide``: some rows may be unconstrained, or take more than the best columns.
        """
        logits = torch.nn.functional.linear(hidden, self.cycle_head)[: len(state.rows)].float()
        assert logits.shape[1] == CYCLE_COLUMNS
        logits = forbid_repeats(logits, state.history, self.audio)
        logits = logits.masked_fill(~self._mask[cycle_rows(state.step)], float("-inf"))
        ids = self.ids[draw(logits, state.draws, wide)]
        return torch.where(state.cycle, ids, self._unconstrained(hidden, state)) if wide else ids

    def _unconstrained(self, hidden: torch.Tensor, state: SlotState) -> torch.Tensor:
        logits = torch.nn.functional.linear(hidden, self._head)[: len(state.rows)].float()
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
        self.state.rows[slot] = SlotState.row(sampling, prompt)
        self._note(slot, sampling)

    def _note(self, slot: int, sampling: Sampling) -> None:
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
        self.state.advance(slots, state, ids)
        return ids

    def _tensor(self, values: Sequence[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self.device)
