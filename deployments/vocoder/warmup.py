"""Runs everything once before a replica reports ready: kernels load, and on a GPU the usual shapes are captured."""

import numpy as np

from deployments.types import AUDIO_CODES, GROUP_SECONDS, GROUP_SIZE, VQ02_CODES, Reference
from deployments.vocoder.chunks import Chunks
from deployments.vocoder.model import Synthesizer, Utterance

_PROMPTS_S = (3.0, 8.04, 12.0)  # one for each size that few seconds of memory are padded to
_CLIP_S = 6.0


def warm_up(synthesizer: Synthesizer, schedule: tuple[int, ...]) -> None:
    """On a CPU one short clip and stream; on a GPU clips and streams with several prompts, alone and together."""
    if synthesizer.device.type == "cpu":
        _run(synthesizer, schedule, 1.2, 1.2, 1)
        return
    for prompt_s in _PROMPTS_S:
        for together in (1, 2, 4, 8):
            _run(synthesizer, schedule, prompt_s, _CLIP_S, together)


def _run(synthesizer: Synthesizer, schedule: tuple[int, ...], prompt_s: float, clip_s: float, together: int) -> None:
    utterances = [_utterance(synthesizer, prompt_s, clip_s, seed) for seed in range(together)]
    synthesizer.synthesize_batch(utterances)
    streams = [synthesizer.stream(each.reference, each.seed) for each in utterances]
    synthesizer.open(streams, [each.codes[:GROUP_SIZE] for each in utterances])
    chunks = Chunks(schedule)
    chunks.feed(utterances[0].codes)
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
