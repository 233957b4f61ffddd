"""The runner of a GPU: steps captured as CUDA graphs, one per bucket of rows.

A step is some 200 kernels of a few microseconds: launched one by one they would take ten times longer than they
run. Inputs lie where the graphs expect them; results are copied to pinned memory and waited for by whoever reads
them, so that the next step is launched meanwhile.
"""

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch

from deployments.llm.kernels.fusion import Workspace
from deployments.llm.kernels.ops import GPUSampler
from deployments.llm.model import Chunk, KVCache, SlotModel
from deployments.llm.runner import Result, Runner, Vocabulary
from deployments.types import Sampling

logger = logging.getLogger(__name__)


class _Pending:
    """Ids on their way to the host."""

    def __init__(self, ids: torch.Tensor) -> None:
        self._ids = torch.empty(ids.shape, dtype=ids.dtype, pin_memory=True)
        self._ids.copy_(ids, non_blocking=True)
        self._event = torch.cuda.Event()
        self._event.record()

    def tokens(self) -> list[int]:
        self._event.synchronize()
        values: list[int] = self._ids.tolist()
        return values


def row_buckets(slots: int) -> list[int]:
    """Row counts that steps are captured for: powers of two up to the number of slots."""
    powers = [1 << bit for bit in range(slots.bit_length()) if 1 << bit < slots]
    return [*powers, slots]


def chunk_buckets(chunk: int) -> list[int]:
    """Lengths that prompt chunks are padded to: steps of 64 up to 512 waste little, then powers of two."""
    return sorted({size for size in (32, *range(64, 513, 64), 1024, 2048, chunk) if size <= chunk})


class GraphRunner(Runner):
    """``Runner`` on CUDA. Unconstrained requests, which are for comparison, run without graphs."""

    def __init__(
        self,
        model: SlotModel,
        cache: KVCache,
        vocabulary: Vocabulary,
        workspace: Workspace,
        chunk: int,
        deterministic: bool = False,
    ) -> None:
        """``deterministic``: always the largest buckets, so that company never changes the kernels' order of adding."""
        super().__init__(model, cache, vocabulary)
        self.sampler: GPUSampler = GPUSampler(model.weights.head, vocabulary, workspace)
        rows, chunks = row_buckets(cache.slots), chunk_buckets(chunk)
        self._rows = rows[-1:] if deterministic else rows
        self._chunks = chunks[-1:] if deterministic else chunks
        self._bucket = lambda active: next(size for size in self._rows if size >= active)
        self._slots_in = torch.full((rows[-1],), cache.slots, dtype=torch.int64, device=self.device)
        self._ids_in = torch.zeros(chunks[-1], dtype=torch.int64, device=self.device)
        self._chunk_in = Chunk(*torch.zeros(2, 1, dtype=torch.int64, device=self.device))
        self._pool = torch.cuda.graph_pool_handle()
        began = time.perf_counter()
        self._steps = {size: self._capture(partial(self._step, size)) for size in reversed(self._rows)}
        self._prefills = {size: self._capture(partial(self._chunk, size)) for size in reversed(self._chunks)}
        logger.info("captured %d graphs in %.1f s", len(rows) + len(chunks), time.perf_counter() - began)

    def begin(self, slot: int, sampling: Sampling, prompt: Sequence[int]) -> None:
        """Take a slot for a prompt and set its row of the state, without waiting for running steps."""
        row = self.state.row(sampling, prompt).pin_memory()
        self.state.rows[slot].copy_(row, non_blocking=True)
        self._note(slot, sampling)

    @torch.inference_mode()
    def prefill(self, slot: int, ids: Sequence[int], start: int) -> None:
        """Run a chunk, padded to a bucket: what the padding writes lies ahead and is written over before it is read."""
        size = next(size for size in self._chunks if size >= len(ids))
        self._ids_in[: len(ids)].copy_(_pinned(ids), non_blocking=True)
        self._chunk_in.slot.copy_(_pinned([slot]), non_blocking=True)
        self._chunk_in.start.copy_(_pinned([start]), non_blocking=True)
        graph, hidden = self._prefills[size]
        graph.replay()
        self._last[slot] = hidden[len(ids) - 1 : len(ids)].clone()

    @torch.inference_mode()
    def first(self, slot: int) -> Result:
        """Draw the first token after the last chunk of a prompt."""
        slots = _pinned([slot]).to(self.device, non_blocking=True)
        hidden = self._last.pop(slot)
        if slot in self._wide:
            return _Pending(self.advance(slots, hidden, wide=True))
        return _Pending(self.sampler.draw_codes(hidden, self.state, slots))

    @torch.inference_mode()
    def decode(self, active: Sequence[int]) -> Result:
        """Launch one step of the active slots."""
        rows = self._bucket(len(active))
        slots = _pinned([*active, *[self.slots] * (rows - len(active))])
        self._slots_in[:rows].copy_(slots, non_blocking=True)
        if not self._wide.isdisjoint(active):
            state = self.state.at(self._slots_in[:rows])
            hidden = self.model.decode(state.token, self._slots_in[:rows], state.position.contiguous())
            return _Pending(self.advance(self._slots_in[: len(active)].clone(), hidden, wide=True))
        graph, ids = self._steps[rows]
        graph.replay()
        return _Pending(ids[: len(active)])

    def _step(self, rows: int) -> torch.Tensor:
        slots = self._slots_in[:rows]
        ids, positions = self.state.rows[slots, :2].T.contiguous()
        hidden = self.model.decode(ids, slots, positions)
        return self.sampler.draw_codes(hidden, self.state, slots)

    def _chunk(self, size: int) -> torch.Tensor:
        return self.model.prefill(self._ids_in[:size], self._chunk_in)

    @torch.inference_mode()
    def _capture(self, work: Callable[[], torch.Tensor]) -> tuple[torch.cuda.CUDAGraph, torch.Tensor]:
        """Run once to compile and tune what is lazy, then capture."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            work()
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            out = work()
        return graph, out


def _pinned(values: Sequence[int]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int64, pin_memory=True)
