"""A whole checkpoint that no script of this project wrote, through all three rooms: every expected number.

Each stage is fed the golden output of the one before, then everything is chained from the clip to the wave.
"""

import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from deployments.checkpoint import Layout
from deployments.encoder.audio import normalize_energy, prepare, resample, trim_silence
from deployments.encoder.encoder import Encoder
from deployments.encoder.load import load as load_encoder
from deployments.llm.engine import Engine
from deployments.llm.jobs import Job
from deployments.llm.loading import Options, load_engine
from deployments.llm.prompt import edit_instruction
from deployments.llm.step1 import Step1ForCausalLM
from deployments.llm.tokenizer import Step1Tokenizer
from deployments.types import GROUP_SIZE, SAMPLE_RATE, Clip, ClonePrompt, EditPrompt, Prompt, Reference, Sampling
from deployments.vocoder.flow import FRAMES_PER_PAIR
from deployments.vocoder.model import Synthesizer
from deployments.vocoder.model import load as load_vocoder
from deployments.vocoder.pairs import to_pairs

Tensors = dict[str, torch.Tensor]
CASES = ("clone", "edit_emotion_happy")
TRANSCRIPT = "The quick brown fox jumps over the lazy dog."
GROUPS = 14


@pytest.fixture(scope="module")
def layout(golden_models: Path) -> Layout:
    return Layout(golden_models)


@pytest.fixture(scope="module")
def expected(golden_models: Path) -> Tensors:
    return load_file(golden_models.parent / "expected.safetensors")


@pytest.fixture(scope="module")
def clip(golden_models: Path) -> Clip:
    with wave.open(str(golden_models.parents[1] / "speech_24k.wav")) as reader:
        assert reader.getframerate() == SAMPLE_RATE
        samples = np.frombuffer(reader.readframes(reader.getnframes()), dtype="<i2")
    return Clip(samples[None].astype(np.float32) / 32768, SAMPLE_RATE)


@pytest.fixture(scope="module")
def encoder(layout: Layout) -> Encoder:
    return load_encoder(layout, torch.device("cpu"))


@pytest.fixture(scope="module")
def tokenizer(layout: Layout) -> Step1Tokenizer:
    return Step1Tokenizer(layout.variant("base"))


@pytest.fixture(scope="module")
def llm(layout: Layout) -> Step1ForCausalLM:
    return Step1ForCausalLM.from_pretrained(layout.variant("base"), dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def engine(layout: Layout) -> Iterator[Engine]:
    engine, _ = load_engine(layout.variant("base"), torch.device("cpu"), Options(slots=2, max_length=1024))
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def vocoder(layout: Layout) -> Synthesizer:
    return load_vocoder(layout, torch.device("cpu"))


@pytest.fixture(scope="module")
def reference(expected: Tensors) -> Reference:
    vq02, vq06 = (expected[name].numpy().astype(np.int32) for name in ("vq02", "vq06"))
    return Reference(vq02, vq06, expected["mel"][0].numpy(), expected["speaker"][0].numpy(), 4.24)


def prompt(case: str, codes: np.ndarray) -> Prompt:
    if case == "clone":
        return ClonePrompt("测试语音合成效果", TRANSCRIPT, codes, "clone_0000000000000000")
    return EditPrompt(edit_instruction("emotion", "happy", TRANSCRIPT), codes)


def continue_greedily(engine: Engine, ids: list[int], first_audio: int) -> list[int]:
    """Codes of GROUPS groups from the serving engine: temperature 0, repetition rule and code cycle on."""
    pieces = engine.complete(Job(ids, GROUPS * GROUP_SIZE, Sampling(seed=0, temperature=0.0)))
    return [int(token) - first_audio for piece in pieces for token in piece.ids]


@torch.inference_mode()
def synthesize(
    room: Synthesizer, codes: np.ndarray, reference: Reference, noise: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mel (1, 80, frames) from a given start (1, 80, at least all frames), and the wave (1, n) without source noise."""
    pairs, voice = to_pairs(codes), room.voice(reference)
    start = noise[0, :, : FRAMES_PER_PAIR * (len(voice.pairs) + len(pairs))].T
    mel = room.clips.mels([pairs], [voice], [start])[0].T[None]
    source = room.hift.excite(mel, torch.zeros(1, room.hift.sizes.frame * mel.shape[2]))
    return mel, room.hift(mel, source)


def assert_close(found: torch.Tensor | np.ndarray, expected: torch.Tensor, tolerance: float) -> None:
    torch.testing.assert_close(torch.as_tensor(found), expected, atol=tolerance, rtol=0)


@torch.inference_mode()
def test_clip_is_prepared_as_expected(encoder: Encoder, clip: Clip, expected: Tensors) -> None:
    signal = torch.from_numpy(prepare(clip))
    assert_close(signal[None], expected["prompt_24k"], 1e-5)
    at16 = resample(signal, SAMPLE_RATE, 16_000)
    fbank = encoder.fbank([at16])[0]
    assert_close(fbank - fbank.mean(0), expected["campplus_fbank"], 1e-3)
    assert_close(trim_silence([normalize_energy(at16)])[0], expected["audio_16k"], 1e-5)


def test_encoder_gives_the_expected_reference(encoder: Encoder, clip: Clip, expected: Tensors) -> None:
    found = encoder.encode_batch([clip])[0]
    for name in ("vq02", "vq06"):
        np.testing.assert_array_equal(getattr(found, name), expected[name])
    np.testing.assert_array_equal(found.codes, expected["mixed"])
    assert_close(found.mel[None], expected["mel"], 1e-3)
    assert_close(found.speaker[None], expected["speaker"], 1e-3)


@pytest.mark.parametrize("case", CASES)
def test_language_model_gives_the_expected_ids_logits_and_codes(
    tokenizer: Step1Tokenizer, llm: Step1ForCausalLM, engine: Engine, expected: Tensors, case: str
) -> None:
    ids = tokenizer.encode_prompt(prompt(case, expected["mixed"].numpy()))
    assert ids == expected[f"{case}.prompt_ids"].tolist()
    with torch.inference_mode():
        assert_close(llm(torch.tensor([ids])).logits[0, -1], expected[f"{case}.last_logits"], 1e-3)
    assert continue_greedily(engine, ids, tokenizer.audio) == expected[f"{case}.codes"].tolist()


@pytest.mark.parametrize("case", CASES)
def test_vocoder_gives_the_expected_mel_and_wave(
    vocoder: Synthesizer, reference: Reference, expected: Tensors, case: str
) -> None:
    mel, samples = synthesize(vocoder, expected[f"{case}.codes"].numpy(), reference, expected["rand_noise"])
    assert_close(mel, expected[f"{case}.mel"], 2e-3)
    assert_close(samples, expected[f"{case}.wav_noise_free"], 5e-3)


@pytest.mark.parametrize("case", CASES)
def test_clip_becomes_the_expected_wave_through_all_stages(
    encoder: Encoder,
    tokenizer: Step1Tokenizer,
    engine: Engine,
    vocoder: Synthesizer,
    clip: Clip,
    expected: Tensors,
    case: str,
) -> None:
    reference = encoder.encode_batch([clip])[0]
    ids = tokenizer.encode_prompt(prompt(case, reference.codes))
    codes = np.array(continue_greedily(engine, ids, tokenizer.audio), dtype=np.int32)
    _, samples = synthesize(vocoder, codes, reference, expected["rand_noise"])
    assert_close(samples, expected[f"{case}.wav_noise_free"], 5e-3)


def test_a_checkpoints_python_files_are_never_executed(golden_models: Path) -> None:
    """They raise when they are; the stages above loaded this folder."""
    folder = golden_models / "Step-Audio-EditX"
    scripts = sorted(path.name for path in folder.glob("*.py"))
    assert scripts == ["configuration_step1.py", "modeling_step1.py"]
    for path in folder.glob("*.py"):
        assert path.read_text().startswith("raise RuntimeError")
