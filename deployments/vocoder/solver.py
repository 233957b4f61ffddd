"""The Euler solver that carries noise to mel in ten steps, under classifier-free guidance.

Whole clips and chunks of streams differ only in what they remember: a stream's earlier frames are read before and
written after each step.
"""

from typing import Protocol

import torch

from deployments.vocoder.flow import Flow
from deployments.vocoder.graphs import Function, Graphs
from deployments.vocoder.memory import Memory, Rows

STEPS = 10


class Recall(Protocol):
    """Memory of earlier frames, step by step: read before a step, written when the step has completed it."""

    def read(self, step: int) -> Memory: ...

    def write(self, step: int, memory: Memory) -> None: ...


class Solver:
    """Runs a flow's estimator.

    Folds the estimator, so a flow serves one solver only. The flow's weights and activations take ``dtype``; what the
    steps add up to stays in float32.
    """

    def __init__(self, flow: Flow, dtype: torch.dtype, graphs: Graphs) -> None:
        self.graphs = graphs
        self.dtype = dtype
        self._guidance = flow.sizes.guidance
        self._estimator = flow.decoder.estimator
        times = euler_times().to(flow.encoder_proj.weight.device)
        self._intervals = times.diff()
        self._modulation = self._estimator.fold(times[:-1]).to(dtype)
        flow.to(dtype)

    def solve(
        self,
        noise: torch.Tensor,
        mu: torch.Tensor,
        speaker: torch.Tensor,
        prompt: torch.Tensor,
        rows: Rows | None = None,
        recall: Recall | None = None,
        graphed: bool = False,
    ) -> torch.Tensor:
        """Mel (batch, frames, bands) from noise, mu and prompt of the same shape and speaker (batch, bands).

        ``graphed`` runs each step as a CUDA graph, for shapes that come again.
        """
        mu, speaker, prompt = (x.to(self.dtype) for x in (mu, speaker, prompt))
        condition = self._estimator.condition(mu, speaker, prompt)
        mask, lengths = (rows.mask, rows.lengths) if rows else (None, None)
        run = self.graphs.run if graphed else _plainly
        x = noise
        for step in range(STEPS):
            place = (x, condition, self._modulation[step], self._intervals[step], mask, lengths)
            if recall is None:
                (x,) = run(self._step, *place)
                continue
            memory = recall.read(step)
            x, *completed = run(self._step_of_stream, *place, memory.attention, memory.convolution, memory.ends)
            recall.write(step, Memory(*completed))
        return x.clone() if graphed else x

    def rows(self, lengths: list[int], frames: int, seen: list[int], before: int) -> Rows:
        """Which frames exist in a batch padded to ``before`` remembered and ``frames`` new ones."""
        device = self._intervals.device
        old, new = (torch.tensor(counts, device=device).repeat(2)[:, None] for counts in (seen, lengths))
        position = torch.arange(before + frames, device=device)
        exists = torch.where(position < before, position < old, position - before < new)
        mask = torch.zeros(exists.shape, dtype=self.dtype, device=device).masked_fill(~exists, float("-inf"))
        return Rows(mask[:, None, None], new[:, 0])

    def _step(
        self,
        x: torch.Tensor,
        condition: torch.Tensor,
        modulation: torch.Tensor,
        interval: torch.Tensor,
        mask: torch.Tensor | None,
        lengths: torch.Tensor | None,
    ) -> tuple[torch.Tensor, ...]:
        velocity = self._estimator(x, condition, modulation, _rows(mask, lengths))
        return (self._moved(x, velocity, interval),)

    def _step_of_stream(
        self,
        x: torch.Tensor,
        condition: torch.Tensor,
        modulation: torch.Tensor,
        interval: torch.Tensor,
        mask: torch.Tensor | None,
        lengths: torch.Tensor | None,
        attention: torch.Tensor,
        convolution: torch.Tensor,
        ends: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        memory = Memory(attention, convolution, ends)
        velocity = self._estimator(x, condition, modulation, _rows(mask, lengths), memory)
        return self._moved(x, velocity, interval), attention, convolution, ends

    def _moved(self, x: torch.Tensor, velocity: torch.Tensor, interval: torch.Tensor) -> torch.Tensor:
        given, free = velocity.float().chunk(2)
        return x + interval * ((1 + self._guidance) * given - self._guidance * free)


def euler_times() -> torch.Tensor:
    """The solver's eleven times from 0 to 1, dense at the start: 1 - cos(pi / 2 * s)."""
    return 1 - torch.cos(torch.linspace(0, 1, STEPS + 1) * 0.5 * torch.pi)


def _plainly(function: Function, *inputs: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
    return function(*inputs)


def _rows(mask: torch.Tensor | None, lengths: torch.Tensor | None) -> Rows | None:
    return Rows(mask, lengths) if mask is not None and lengths is not None else None
