"""VQ02's layers as CUDA graphs: for short batches launching some thousand small kernels costs more than they do.

A graph is recorded once for each of a few numbers of blocks; a batch takes the next larger one, and blocks that pad
it see only themselves. Larger batches keep the GPU busy without.
"""

import bisect
from typing import Any

import torch
from torch import Tensor

from deployments.encoder.blocks import BLOCK, WINDOW, Runner
from deployments.encoder.frontend import ROW_SIZE

BUCKETS = (16, 32, 48, 64, 96, 128, 192, 256)  # a block is 0.24 s: 4 s to a minute of audio
WARM_UP_RUNS = 2


class Recording:
    """One recorded graph and the tensors that it reads and writes."""

    def __init__(self, layers: Runner, blocks: int, device: torch.device, pool: Any) -> None:
        own = torch.arange(blocks, device=device)[:, None] * BLOCK
        self.x = torch.zeros(blocks, BLOCK, ROW_SIZE, device=device)
        self.valid = torch.ones(blocks, BLOCK, dtype=torch.bool, device=device)
        self.window = own.repeat(1, WINDOW)
        self.seen = torch.ones(blocks, WINDOW, dtype=torch.bool, device=device)
        inputs = (self.x, self.valid, self.window, self.seen)
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_RUNS):
                layers(*inputs)
        torch.cuda.current_stream(device).wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, pool=pool, stream=stream):
            self.output = layers(*inputs)

    def replay(self, x: Tensor, valid: Tensor, window: Tensor, seen: Tensor) -> Tensor:
        """What the layers give for these inputs; they may be fewer blocks than were recorded."""
        blocks = len(x)
        self.x[:blocks], self.valid[:blocks], self.window[:blocks], self.seen[:blocks] = x, valid, window, seen
        self.graph.replay()
        return self.output[:blocks].clone()


class LayerGraphs:
    """The layers through recordings, called like the layers themselves."""

    def __init__(self, layers: Runner, device: torch.device, buckets: tuple[int, ...] = BUCKETS) -> None:
        self.layers = layers
        self.buckets = buckets
        pool = torch.cuda.graph_pool_handle()
        largest_first = sorted(buckets, reverse=True)  # so that the smaller ones fit in its memory
        self.recordings = {blocks: Recording(layers, blocks, device, pool) for blocks in largest_first}

    def __call__(self, x: Tensor, valid: Tensor, window: Tensor, seen: Tensor) -> Tensor:
        index = bisect.bisect_left(self.buckets, len(x))
        if index == len(self.buckets):
            return self.layers(x, valid, window, seen)
        return self.recordings[self.buckets[index]].replay(x, valid, window, seen)
