"""Independent work side by side on one GPU: each task on a stream of its own, joined at the end."""

from collections.abc import Callable

import torch
from torch import Tensor

Task = Callable[[], list[Tensor]]


class Lanes:
    """Runs tasks that read the same inputs; on a CPU one after another.

    The first task given is launched first: the longest belongs there, so that launching the others hides behind it.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.streams: list[torch.cuda.Stream] = []

    def run(self, *tasks: Task) -> list[list[Tensor]]:
        """Every task's result, in order. The caller keeps the inputs until it has read the results."""
        if self.device.type != "cuda":
            return [task() for task in tasks]
        while len(self.streams) < len(tasks):
            self.streams.append(torch.cuda.Stream(self.device))
        current = torch.cuda.current_stream(self.device)
        results = []
        for stream, task in zip(self.streams, tasks, strict=False):
            stream.wait_stream(current)
            with torch.cuda.stream(stream):
                results.append(task())
        for stream in self.streams[: len(tasks)]:
            current.wait_stream(stream)
        return results
