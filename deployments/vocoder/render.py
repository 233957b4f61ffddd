"""HiFT over lists of mel spectrograms: batched, and for the chunks of streams joined to what came before."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from deployments.vocoder.batches import batch_rows, rendered, rendered_frames, split
from deployments.vocoder.graphs import Graphs
from deployments.vocoder.hift import Hift
from deployments.vocoder.noise import Noise
from deployments.vocoder.rows import stack

OVERLAP = 8  # mel frames that neighbouring chunks of a stream share


@dataclass(frozen=True)
class Ending:
    """The last frames of a stream so far: mel (n, bands), source and samples (480 * n,)."""

    mel: torch.Tensor
    source: torch.Tensor
    samples: torch.Tensor


@dataclass(frozen=True)
class Passage:
    """Mel (n, bands) to be made audible; ``ending`` is what precedes it in a stream."""

    mel: torch.Tensor
    noise: Noise
    ending: Ending | None = None


@dataclass(frozen=True)
class _Rendered:
    samples: torch.Tensor
    source: torch.Tensor


class Renderer:
    """Runs HiFT, which it folds; small shapes as CUDA graphs."""

    def __init__(self, hift: Hift, graphs: Graphs, budget: int, dtype: torch.dtype = torch.float32) -> None:
        hift.fold(dtype)
        self._hift, self._graphs, self._budget = hift, graphs, budget
        self._frame = hift.sizes.frame
        self._device = hift.m_source.l_linear.weight.device
        self._fade = torch.hamming_window(2 * OVERLAP * self._frame, periodic=False, device=self._device)

    def clips(self, passages: list[Passage]) -> list[torch.Tensor]:
        """Samples (480 * n,) of each mel."""
        return [heard.samples for heard in self._render(passages)]

    def chunk(self, passages: list[Passage], last: list[bool]) -> list[tuple[torch.Tensor, Ending]]:
        """The streams' next samples, and their new endings.

        The last eight frames' samples are held back until the next chunk is there to be cross-faded with, except
        for a stream's last chunk. So a first chunk of n frames gives 480 * (n - 8) samples, later ones 480 * n, and
        the last 480 * (n + 8).
        """
        results = []
        for passage, heard, final in zip(passages, self._render(passages), last, strict=True):
            samples, held = heard.samples, OVERLAP * self._frame
            if passage.ending is not None:
                samples = self._cross_fade(passage.ending.samples, samples)
            mel = _joined(passage)
            ending = Ending(mel[-OVERLAP:].clone(), heard.source[-held:].clone(), samples[-held:].clone())
            results.append((samples if final else samples[:-held], ending))
        return results

    def _cross_fade(self, before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        rising, falling = self._fade.chunk(2)
        shared = len(before)
        faded = after[:shared] * rising[:shared] + before * falling[-shared:]
        return torch.cat([faded, after[shared:]])

    def _render(self, passages: list[Passage]) -> list[_Rendered]:
        lengths = [len(_joined(passage)) for passage in passages]
        results: dict[int, _Rendered] = {}
        for group in split(lengths, rendered, self._budget):
            heard = self._batch([passages[index] for index in group], [lengths[index] for index in group])
            results |= dict(zip(group, heard, strict=True))
        return [results[index] for index in range(len(passages))]

    def _batch(self, passages: list[Passage], lengths: list[int]) -> list[_Rendered]:
        rows, frames = len(passages), max(lengths)
        graphed = self._graphs.enabled and batch_rows(rows) * rendered_frames(frames) <= self._budget
        if graphed:
            rows, frames = batch_rows(rows), rendered_frames(frames)
        mel = stack([_joined(passage) for passage in passages], frames, rows)
        noise = stack([self._noise(passage) for passage in passages], frames * self._frame, rows)
        empty = mel.new_zeros(0)
        held = stack([p.ending.source if p.ending else empty for p in passages], OVERLAP * self._frame, rows)
        counts = torch.tensor([len(p.ending.source) if p.ending else 0 for p in passages], device=self._device)
        counts = F.pad(counts, (0, rows - len(passages)))
        ends = None
        if graphed or min(lengths) < frames:
            ends = torch.tensor(lengths + [frames] * (rows - len(lengths)), device=self._device)
        inputs = (mel.transpose(1, 2), noise, held, counts, ends)
        samples, source = self._graphs.run(self._hear, *inputs) if graphed else self._hear(*inputs)
        counted = [length * self._frame for length in lengths]
        return [_Rendered(samples[row, :n].clone(), source[row, :n]) for row, n in enumerate(counted)]

    def _noise(self, passage: Passage) -> torch.Tensor:
        """Noise for a passage's own frames, behind zeros for the frames whose source is known."""
        known = 0 if passage.ending is None else len(passage.ending.source)
        drawn = passage.noise.source(len(passage.mel) * self._frame)
        return F.pad(drawn, (known, 0)).to(self._device)

    def _hear(
        self,
        mel: torch.Tensor,
        noise: torch.Tensor,
        held: torch.Tensor,
        counts: torch.Tensor,
        lengths: torch.Tensor | None,
    ) -> tuple[torch.Tensor, ...]:
        """mel (batch, bands, frames), noise (batch, samples), the first counts (batch,) samples of the source as held
        (batch, 3840), lengths (batch,) in frames -> samples and source (batch, 480 * frames)"""
        source = self._hift.excite(mel, noise, lengths)
        held = F.pad(held, (0, source.shape[1] - held.shape[1]))
        source = torch.where(torch.arange(source.shape[1], device=source.device) < counts[:, None], held, source)
        return self._hift(mel, source, lengths), source


def _joined(passage: Passage) -> torch.Tensor:
    return passage.mel if passage.ending is None else torch.cat([passage.ending.mel, passage.mel])
