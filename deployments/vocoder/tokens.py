"""The token encoder over lists of clips and over streams' chunks; on a GPU in few padded shapes, as CUDA graphs."""

import torch

from deployments.vocoder.batches import (
    Budget,
    batch_rows,
    chunk_frames,
    encoded_tokens,
    padded,
    remembered_tokens,
    split,
)
from deployments.vocoder.conformer import ConformerMemory
from deployments.vocoder.flow import FRAMES_PER_PAIR, Flow
from deployments.vocoder.graphs import Graphs
from deployments.vocoder.rows import stack
from deployments.vocoder.stream import Stream, gather_tokens


class TokenEncoder:
    """Runs a flow's embedding and conformer."""

    def __init__(self, flow: Flow, graphs: Graphs, budget: Budget, limit: int | None) -> None:
        """limit: of how many past tokens a stream keeps the memory."""
        self._flow, self._graphs, self._budget, self._limit = flow, graphs, budget, limit
        self._lookahead = flow.sizes.conformer.lookahead
        self._device = flow.encoder_proj.weight.device

    def clips(self, clips: list[torch.Tensor]) -> list[torch.Tensor]:
        """What the estimator follows, for whole clips: pairs (n, 2) -> (2 * n, bands) each."""
        counts = [len(pairs) for pairs in clips]
        groups = split(counts, padded, self._budget.encode)
        if self._graphs.enabled:
            groups = [[index] for index in range(len(clips))]
        results: dict[int, torch.Tensor] = {}
        for group in groups:
            encoded = self._clips([clips[index] for index in group])
            results |= {index: mu[: FRAMES_PER_PAIR * counts[index]] for index, mu in zip(group, encoded, strict=True)}
        return [results[index] for index in range(len(clips))]

    def chunk(self, streams: list[Stream], pairs: list[torch.Tensor], tokens: list[int]) -> list[torch.Tensor]:
        """The same for the next chunks of streams, which remember them.

        pairs (n, 2) are ``tokens`` long and, where they are longer, go on with what may be looked ahead to.
        """
        rows, longest, before, graphed = self._shape(streams, tokens)
        missing = rows - len(streams)
        known = torch.tensor([len(part) for part in pairs] + [longest] * missing, device=self._device)
        lengths = torch.tensor(tokens + [longest] * missing, device=self._device)
        past = gather_tokens(streams, rows, before, self._graphs)
        memory = (past.lookahead, past.upsample, past.tokens, past.frames, past.lengths) if past else (None,) * 5
        inputs = (stack(pairs, longest + self._lookahead, rows), known, lengths, *memory)
        mu, *added = self._graphs.run(self._run, *inputs) if graphed else self._run(*inputs)
        for row, (stream, count) in enumerate(zip(streams, tokens, strict=True)):
            stream.remember_tokens(ConformerMemory(*added), row, count, self._limit)
        return [part[: FRAMES_PER_PAIR * count].clone() for part, count in zip(mu, tokens, strict=False)]

    def _clips(self, clips: list[torch.Tensor]) -> torch.Tensor:
        longest = max(len(pairs) for pairs in clips)
        longest = encoded_tokens(longest) if self._graphs.enabled else longest
        lengths = torch.tensor([len(pairs) for pairs in clips], device=self._device)
        inputs = (stack(clips, longest + self._lookahead), lengths)
        if self._graphs.enabled:
            return self._graphs.run(self._run_clips, *inputs)[0].clone()
        return self._run_clips(*inputs)[0]

    def _shape(self, streams: list[Stream], tokens: list[int]) -> tuple[int, int, int, bool]:
        """Rows, new tokens and remembered tokens of a batch, padded if it is run as a graph; and whether it is."""
        rows, longest = len(streams), max(tokens)
        before = max(0 if stream.conformer is None else stream.conformer.tokens.shape[4] for stream in streams)
        size = batch_rows(rows) * remembered_tokens(before) if before else rows * longest
        if not self._graphs.enabled or size > self._budget.recall or (before == 0 and rows > 1):
            return rows, longest, before, False
        if before == 0:
            return rows, encoded_tokens(longest), 0, True
        longest = chunk_frames(FRAMES_PER_PAIR * longest) // FRAMES_PER_PAIR
        return batch_rows(rows), longest, remembered_tokens(before), True

    def _run_clips(self, pairs: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (self._flow.encode(pairs, lengths, lengths)[0],)

    def _run(
        self,
        pairs: torch.Tensor,
        known: torch.Tensor,
        lengths: torch.Tensor,
        lookahead: torch.Tensor | None,
        upsample: torch.Tensor | None,
        tokens: torch.Tensor | None,
        frames: torch.Tensor | None,
        seen: torch.Tensor | None,
    ) -> tuple[torch.Tensor, ...]:
        past = None
        if lookahead is not None and upsample is not None and tokens is not None and frames is not None:
            past = ConformerMemory(lookahead, upsample, tokens, frames, seen)
        mu, added = self._flow.encode(pairs, known, lengths, past)
        return mu, added.lookahead, added.upsample, added.tokens, added.frames
