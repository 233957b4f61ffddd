import asyncio
from dataclasses import replace

import numpy as np
import pytest

from deployments.errors import InvalidInputError
from deployments.types import Clip, ClonePrompt, EditPrompt, Generation, Prompt, Reference, Sampling, Speech
from serve_app.pipeline import Audio, Draws, Piece, Stages, Timings, clone, edit, speaker_name
from serve_app.voice_file import Label, Voice
from tests.serve_app.fakes import FakeEncoder, FakeLLM, FakeVocoder, fake_stages

CLIP = Clip(np.linspace(-0.5, 0.5, 16_000, dtype=np.float32)[np.newaxis], 16_000)


def voice(transcript: str = "a") -> Voice:
    return Voice(Label("", transcript, CLIP.duration), CLIP)


async def test_clone_hands_reference_codes_transcript_and_text_to_the_named_variant() -> None:
    stages = fake_stages()
    audio = await clone(stages, "awq", voice(" words \n"), ["speak this"], Draws(Sampling(seed=3)), Timings())
    awq, base, vocoder = stages.llm["awq"], stages.llm["base"], stages.vocoder
    assert isinstance(awq, FakeLLM) and isinstance(base, FakeLLM) and isinstance(vocoder, FakeVocoder)
    (prompt,) = awq.prompts
    assert isinstance(prompt, ClonePrompt)
    assert (prompt.text, prompt.transcript) == ("speak this", "words")
    assert prompt.codes.tolist() == [1, 1, 1025, 1025, 1025] * 2
    assert base.prompts == [] and vocoder.seeds == [3]
    assert len(audio.samples) == 12_000 and (audio.prompt_tokens, audio.audio_tokens) == (7, 10)


async def test_segments_are_spoken_with_one_voice_and_joined_in_order() -> None:
    class LateFirst(FakeLLM):
        async def generate(self, prompt: Prompt, sampling: Sampling) -> Generation:
            await asyncio.sleep(0.02 if sampling.seed == 5 else 0)
            generation = await super().generate(prompt, sampling)
            return replace(generation, codes=generation.codes[: 5 * (sampling.seed - 4)])

    class Counting(FakeVocoder):
        async def synthesize(self, codes: np.ndarray, reference: Reference, seed: int) -> Speech:
            return Speech(np.full(100, seed, np.float32), 0, 0)

    stages = Stages(FakeEncoder(), {"base": LateFirst()}, Counting())
    audio = await clone(stages, "base", voice(), ["first", "second"], Draws(Sampling(seed=5)), Timings())
    assert audio.samples[:100].tolist() == [5] * 100 and audio.samples[-100:].tolist() == [6] * 100
    assert len(audio.samples) == 200 + 3600 and (audio.prompt_tokens, audio.audio_tokens) == (14, 15)


async def test_a_failing_segment_ends_the_others() -> None:
    class Failing(FakeLLM):
        cancelled = 0

        async def generate(self, prompt: Prompt, sampling: Sampling) -> Generation:
            if sampling.seed == 1:
                raise InvalidInputError("no room")
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
            raise AssertionError

    llm = Failing()
    with pytest.raises(InvalidInputError, match="no room"):
        await clone(
            Stages(FakeEncoder(), {"base": llm}, FakeVocoder()),
            "base",
            voice(),
            ["x"] * 3,
            Draws(Sampling(0)),
            Timings(),
        )
    await asyncio.sleep(0)
    assert llm.cancelled == 2


async def test_every_edit_round_takes_the_audio_of_the_round_before() -> None:
    stages = fake_stages()
    audio = await edit(stages, "base", [Piece(CLIP, "make it so")], 3, Draws(Sampling(seed=2**63 - 2)), Timings())
    encoder, llm = stages.encoder, stages.llm["base"]
    assert isinstance(encoder, FakeEncoder) and isinstance(llm, FakeLLM)
    assert [clip.sample_rate for clip in encoder.clips] == [16_000, 24_000, 24_000]
    assert all(isinstance(prompt, EditPrompt) and prompt.instruction == "make it so" for prompt in llm.prompts)
    assert [prompt.codes[0] for prompt in llm.prompts] == [1, 2, 3]
    assert [sampling.seed for sampling in llm.samplings] == [2**63 - 2, 2**63 - 1, 0]
    assert (audio.prompt_tokens, audio.audio_tokens) == (21, 30)


async def test_timings_name_every_stage() -> None:
    timings = Timings()
    await clone(fake_stages(), "base", voice(), ["b"], Draws(Sampling(seed=0)), timings)
    fields = dict(part.split(";dur=") for part in timings.header().split(", "))
    assert list(fields) == ["encode", "queue", "llm", "vocode", "total"]
    assert (float(fields["llm"]), float(fields["vocode"])) == (250.0, 125.0)


async def test_a_failing_stage_fails_the_request() -> None:
    with pytest.raises(RuntimeError, match="out of order"):
        await clone(
            fake_stages(RuntimeError("out of order")), "base", voice(), ["b"], Draws(Sampling(seed=0)), Timings()
        )


def test_speaker_name_depends_on_words_and_audio_alone() -> None:
    other = Clip(CLIP.samples * 0.5, CLIP.sample_rate)
    assert speaker_name("a", CLIP) == speaker_name("a", Clip(CLIP.samples.copy(), 16_000))
    assert len({speaker_name("a", CLIP), speaker_name("b", CLIP), speaker_name("a", other)}) == 3
    assert speaker_name("a", CLIP).startswith("clone_") and len(speaker_name("a", CLIP)) == 22


class Flawed(FakeLLM):
    """Codes by the seed's last bit: an even one runs away, an odd one stops."""

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Generation:
        generation = await super().generate(prompt, sampling)
        return generation if sampling.seed % 2 else replace(generation, finish_reason="length")


async def spoken(llm: FakeLLM, seed: int, retry_on: set[str]) -> tuple[Audio, Timings]:
    stages, timings = Stages(FakeEncoder(), {"base": llm}, FakeVocoder()), Timings()
    draws = Draws(Sampling(seed), frozenset(retry_on))
    return await clone(stages, "base", voice(), ["b"], draws, timings), timings


async def test_a_flaw_is_retried_once_with_another_seed_and_the_better_one_kept() -> None:
    audio, timings = await spoken(Flawed(), 1, {"runaway"})
    assert (audio.flaws, timings.retries) == (frozenset(), 0)
    llm = Flawed()
    audio, timings = await spoken(llm, 4, {"runaway"})
    assert (audio.flaws, timings.retries) == ({"runaway"}, 1)
    assert len({sampling.seed for sampling in llm.samplings}) == 2


async def test_a_seed_that_is_fixed_is_never_changed() -> None:
    audio, timings = await spoken(Flawed(), 4, set())
    assert (audio.flaws, timings.retries) == ({"runaway"}, 0)


async def test_no_codes_at_all_are_empty_audio_without_asking_the_vocoder() -> None:
    class Mute(FakeLLM):
        async def generate(self, prompt: Prompt, sampling: Sampling) -> Generation:
            self.samplings.append(sampling)
            return Generation(np.empty(0, np.int32), "stop", 7, 0, 0)

    audio, timings = await spoken(Mute(), 4, {"empty"})
    assert (audio.flaws, timings.retries, len(audio.samples)) == ({"empty"}, 1, 0)


async def test_long_audio_is_edited_piece_by_piece_and_joined_without_pauses() -> None:
    stages = fake_stages()
    pieces = [Piece(CLIP, "first"), Piece(CLIP, "second")]
    audio = await edit(stages, "base", pieces, 2, Draws(Sampling(10)), Timings())
    llm = stages.llm["base"]
    assert isinstance(llm, FakeLLM)
    assert len(audio.samples) == 24_000
    assert sorted(sampling.seed for sampling in llm.samplings) == [10, 11, 12, 13]
