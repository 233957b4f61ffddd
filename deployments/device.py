"""A replica's share of the machine: its device, memory cap and threads.

The device comes from what Ray assigned, never from ``torch.cuda.is_available()``: a replica without GPUs
still sees all of them.
"""

import torch


def claim(device: str, num_gpus: float, num_cpus: float) -> torch.device:
    """Limit this process to its share and return its device.

    Args:
        device: "cpu" or "cuda". On a GPU replica Ray shows exactly one GPU, so it is always ``cuda:0``.
        num_gpus: the fraction of the GPU; Serve does not enforce memory, so the process caps itself to it.
        num_cpus: CPU share; torch gets its whole part as threads, at least one.
    """
    torch.set_num_threads(max(1, int(num_cpus)))
    if device == "cpu":
        return torch.device("cpu")
    cuda = torch.device("cuda", 0)
    if 0 < num_gpus < 1:
        torch.cuda.set_per_process_memory_fraction(num_gpus, cuda)
    return cuda
