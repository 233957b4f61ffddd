"""Runs everything once before a replica reports ready: kernels load, and on a GPU the usual shapes are captured."""

import numpy as np
import torch

from deployments.types import AUDIO_CODES, GROUP_SECONDS, GROUP_SIZE, VQ02_CODES, Reference
from deployments.vocoder.chunks import Chunks
from deployments.vocoder.model import Synthesizer, Utterance
from deployments.vocoder.stream import Stream

_PROMPTS_S = (3.0, 8.04)
_CLIP_S = 6.0


def warm_up(synthesizer: Synthesizer, schedule: tuple[int, ...]) -> None:
    """On a CPU one short clip and stream; on a GPU clips and streams with two prompts, alone and together."""
    if synthesizer.device.type == "cpu":
        _clips(synthesizer, 1.2, 1)
        _streams(synthesizer, schedule, 1.2, 1.2, 1)
        return
    for prompt_s in _PROMPTS_S:
        for together in (1, 4):
            _clips(synthesizer, prompt_s, together)
        for together in (1, 2, 4, 8):
            _streams(synthesizer, schedule, prompt_s, _CLIP_S, together)
    torch.cuda.empty_cache()  # what loading and capturing took on the way


def _clips(synthesizer: Synthesizer, prompt_s: float, together: int) -> None:
    clip_s = _CLIP_S if synthesizer.device.type == "cuda" else prompt_s
    synthesizer.synthesize_batch([_utterance(synthesizer, prompt_s, clip_s, seed) for seed in range(together)])


def _streams(
    synthesizer: Synthesizer, schedule: tuple[int, ...], prompt_s: float, clip_s: float, together: int
) -> None:
    """Streams that share one memory, as only shapes matter."""
    utterance = _utterance(synthesizer, prompt_s, clip_s, 0)
    streams: list[Stream] = []
    for seed in range(together):
        stream = synthesizer.stream(utterance.reference, seed)
        stream.attention = streams[0].attention if streams else stream.attention
        synthesizer.open([stream], [utterance.codes[:GROUP_SIZE]])
        streams.append(stream)
    chunks = Chunks(schedule)
    chunks.feed(utterance.codes)
    chunks.end()
    while chunk := chunks.next():
        synthesizer.advance(streams, [chunk] * together)


def _utterance(synthesizer: Synthesizer, prompt_s: float, clip_s: float, seed: int) -> Utterance:
    random = np.random.default_rng(seed)
    prompt, own = (_groups(seconds, random) for seconds in (prompt_s, clip_s))
    sizes = synthesizer.flow.sizes
    reference = Reference(
        prompt[:, :2].reshape(-1),
        prompt[:, 2:].reshape(-1) - VQ02_CODES,
        random.normal(-5, 2, (6 * len(prompt), sizes.mel)).astype(np.float32),
        random.normal(size=sizes.speaker).astype(np.float32),
        prompt_s,
    )
    return Utterance(own.reshape(-1), reference, seed)


def _groups(seconds: float, random: np.random.Generator) -> np.ndarray:
    count = round(seconds / GROUP_SECONDS)
    first = random.integers(0, VQ02_CODES, (count, 2))
    second = random.integers(VQ02_CODES, AUDIO_CODES, (count, 3))
    return np.concatenate([first, second], axis=1).astype(np.int32)
