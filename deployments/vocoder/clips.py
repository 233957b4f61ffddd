"""Mel spectrograms of whole clips, in batches of different lengths."""

import torch
import torch.nn.functional as F

from deployments.vocoder.batches import Budget, batch_rows, clip_frames, shaped, split
from deployments.vocoder.flow import FRAMES_PER_PAIR, Flow, Voice
from deployments.vocoder.rows import stack
from deployments.vocoder.solver import Solver
from deployments.vocoder.tokens import TokenEncoder


class Clips:
    """Runs flow and solver over whole clips."""

    def __init__(self, flow: Flow, encoder: TokenEncoder, solver: Solver, budget: Budget) -> None:
        self._flow, self._encoder, self._solver, self._budget = flow, encoder, solver, budget

    def mels(self, pairs: list[torch.Tensor], voices: list[Voice], noises: list[torch.Tensor]) -> list[torch.Tensor]:
        """For pairs (n, 2) in a voice, from noise (2 * (prompt + n), bands): (2 * n, bands) each."""
        tokens = [torch.cat([voice.pairs, own]) for voice, own in zip(voices, pairs, strict=True)]
        results: dict[int, torch.Tensor] = {}
        for group in split([len(part) for part in noises], shaped, self._budget.solve):
            mels = self._batch([tokens[i] for i in group], [voices[i] for i in group], [noises[i] for i in group])
            results |= dict(zip(group, mels, strict=True))
        return [results[index] for index in range(len(pairs))]

    def _batch(self, tokens: list[torch.Tensor], voices: list[Voice], noises: list[torch.Tensor]) -> list[torch.Tensor]:
        lengths = [FRAMES_PER_PAIR * len(part) for part in tokens]
        count, longest = len(tokens), max(lengths)
        graphed = self._solver.graphs.enabled and shaped(count, longest) <= self._budget.solve
        if graphed:
            count, longest = batch_rows(count), clip_frames(longest)
        missing = count - len(tokens)
        existing = None
        if graphed or min(lengths) < longest:
            existing = self._solver.rows(lengths + [longest] * missing, longest, [0] * count, 0)
        speaker = self._flow.speaker(torch.stack([voice.speaker for voice in voices]))
        mel = self._solver.solve(
            stack(noises, longest, count).to(voices[0].mel.device),
            stack(self._encoder.clips(tokens), longest, count),
            F.pad(speaker, (0, 0, 0, missing)),
            stack([voice.mel for voice in voices], longest, count),
            existing,
            graphed=graphed,
        )
        ends = zip(mel, voices, lengths, strict=False)
        return [part[len(voice.mel) : length] for part, voice, length in ends]
