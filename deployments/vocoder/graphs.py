"""CUDA graphs over whatever shapes turn up: the estimator and HiFT are hundreds of small kernels.

A function is captured the first time its inputs have certain shapes, and replayed from then on. What is captured
shares one memory pool and scratch buffers, as only one of them runs at a time.
"""

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch

logger = logging.getLogger("ray.serve")
Inputs = Sequence[torch.Tensor | None]
Function = Callable[..., tuple[torch.Tensor, ...]]


@dataclass(frozen=True)
class _Captured:
    graph: torch.cuda.CUDAGraph
    inputs: list[torch.Tensor | None]
    outputs: tuple[torch.Tensor, ...]


class Graphs:
    """Runs functions of tensors by replaying CUDA graphs.

    Args:
        device: on a CPU there are none: ``enabled`` is False and ``run`` must not be called.
        scratch: names and bytes of the buffers that ``scratch`` hands out.
        limit: graphs kept; the least recently used go first.
        wanted: False for none on a GPU either.
    """

    def __init__(
        self, device: torch.device, scratch: Mapping[str, int] | None = None, limit: int = 256, wanted: bool = True
    ) -> None:
        self.enabled = wanted and device.type == "cuda"
        self._limit = limit
        self._captured: OrderedDict[tuple[object, ...], _Captured] = OrderedDict()
        sizes = (scratch or {}).items() if self.enabled else ()
        self._scratch = {name: torch.zeros(size, dtype=torch.uint8, device=device) for name, size in sizes}
        self._pool = torch.cuda.graph_pool_handle() if self.enabled else None

    def scratch(self, name: str, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor | None:
        """A buffer that a graph reads or fills in place, which saves copies; None if there is none or it is too small.

        There is one of each name only: the next call hands out the same memory.
        """
        buffer, size = self._scratch.get(name), prod(shape) * dtype.itemsize
        return buffer[:size].view(dtype).view(*shape) if buffer is not None and size <= len(buffer) else None

    def run(self, function: Function, *inputs: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
        """function(*inputs). What comes back is overwritten by the next run with the same shapes."""
        key = (function.__qualname__, *(None if x is None else (tuple(x.shape), x.dtype) for x in inputs))
        if key not in self._captured:
            self._captured[key] = self._capture(function, inputs)
            if len(self._captured) > self._limit:
                self._captured.popitem(last=False)
        self._captured.move_to_end(key)
        captured = self._captured[key]
        for static, given in zip(captured.inputs, inputs, strict=True):
            if static is not None and given is not None and static.data_ptr() != given.data_ptr():
                static.copy_(given)
        captured.graph.replay()
        return captured.outputs

    def _capture(self, function: Function, inputs: Inputs) -> _Captured:
        started = time.perf_counter()
        scratch = {buffer.data_ptr() for buffer in self._scratch.values()}
        held = [x if x is None or x.data_ptr() in scratch else x.clone() for x in inputs]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            function(*held)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            outputs = function(*held)
        logger.debug("captured %s in %.2f s", function.__qualname__, time.perf_counter() - started)
        return _Captured(graph, held, outputs)
