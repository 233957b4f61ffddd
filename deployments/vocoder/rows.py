"""Batches whose rows differ in length: rows are padded behind and these say where each one ends."""

import torch


def valid(lengths: torch.Tensor, longest: int) -> torch.Tensor:
    """lengths (batch,) -> (batch, longest), True before each row's end"""
    return torch.arange(longest, device=lengths.device) < lengths[:, None]


def tails(x: torch.Tensor, count: int, lengths: torch.Tensor | None) -> torch.Tensor:
    """The last positions of each row: (batch, count + t, width), lengths (batch,) of t -> (batch, count, width)"""
    if lengths is None:
        return x[:, -count:]
    index = lengths[:, None] + torch.arange(count, device=x.device)
    return x.gather(1, index[:, :, None].expand(-1, -1, x.shape[2]))


def stack(parts: list[torch.Tensor], longest: int, rows: int | None = None) -> torch.Tensor:
    """Parts (n, ...) of different n, padded with zeros: (rows, longest, ...); by default no more rows than parts"""
    stacked = parts[0].new_zeros(rows or len(parts), longest, *parts[0].shape[1:])
    for row, part in enumerate(parts):
        stacked[row, : len(part)] = part
    return stacked
