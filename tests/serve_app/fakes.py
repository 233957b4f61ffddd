"""Stage interfaces without models, for tests of what surrounds them."""

from collections.abc import AsyncGenerator

import numpy as np

from deployments.types import SAMPLE_RATE, Clip, Generation, Prompt, Reference, Sampling, Speech
from serve_app.pipeline import LLMStage, Stages


class FakeEncoder:
    """Codes that tell which clip they came from: its length and first sample."""

    def __init__(self) -> None:
        self.clips: list[Clip] = []

    async def encode(self, clip: Clip) -> Reference:
        self.clips.append(clip)
        value = len(self.clips)
        return Reference(
            vq02=np.full(4, value, np.int32),
            vq06=np.full(6, value, np.int32),
            mel=np.zeros((10, 80), np.float32),
            speaker=np.zeros(192, np.float32),
            duration=clip.duration,
        )


class FakeLLM:
    """Ten codes for every prompt; remembers what it was asked. An error, if given, is raised instead."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error
        self.prompts: list[Prompt] = []
        self.samplings: list[Sampling] = []

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Generation:
        self.prompts.append(prompt)
        self.samplings.append(sampling)
        if self.error is not None:
            raise self.error
        return Generation(np.arange(10, dtype=np.int32), "stop", 7, 0.0, 0.25)


class FakeVocoder:
    """Half a second of a sine for every call; remembers the seeds."""

    def __init__(self) -> None:
        self.seeds: list[int] = []

    async def synthesize(self, codes: np.ndarray, reference: Reference, seed: int) -> Speech:
        self.seeds.append(seed)
        time = np.arange(SAMPLE_RATE // 2, dtype=np.float32) / SAMPLE_RATE
        return Speech(0.5 * np.sin(2 * np.pi * 440 * time).astype(np.float32), 0.0, 0.125)

    async def stream(
        self, llm: LLMStage, prompt: Prompt, sampling: Sampling, reference: Reference
    ) -> AsyncGenerator[np.ndarray | Generation, None]:
        """The same half second in two chunks, then how the language model ended."""
        generation = await llm.generate(prompt, sampling)
        speech = await self.synthesize(generation.codes, reference, sampling.seed)
        for chunk in np.split(speech.samples, 2):
            yield chunk
        yield generation


class FakeStates:
    """Fixed deployment states."""

    def __init__(self, states: dict[str, str]) -> None:
        self.states = states

    async def get(self) -> dict[str, str]:
        return self.states


def fake_stages(error: BaseException | None = None) -> Stages:
    """Stages over fakes, base and awq deployed."""
    return Stages(FakeEncoder(), {"base": FakeLLM(error), "awq": FakeLLM(error)}, FakeVocoder())
