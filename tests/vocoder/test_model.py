import numpy as np
import pytest
import torch

from deployments.errors import InvalidInputError
from deployments.types import Reference
from deployments.vocoder.model import Synthesizer
from deployments.vocoder.pairs import to_pairs

Tensors = dict[str, torch.Tensor]


@pytest.mark.parametrize("case", ["clone", "edit_emotion_happy"])
@torch.inference_mode()
def test_small_checkpoint_gives_the_expected_mel_and_wave(
    synthesizer: Synthesizer, reference: Reference, expected: Tensors, case: str
) -> None:
    assert np.array_equal(reference.codes, expected["mixed"].numpy())
    pairs, voice = to_pairs(expected[f"{case}.codes"].numpy()), synthesizer.voice(reference)
    noise = expected["rand_noise"][0, :, : 2 * (len(voice.pairs) + len(pairs))].T
    mel = synthesizer.clips.mels([pairs], [voice], [noise])[0].T[None]
    torch.testing.assert_close(mel, expected[f"{case}.mel"], atol=2e-3, rtol=0)
    source = synthesizer.hift.excite(mel, torch.zeros(1, 480 * mel.shape[2]))
    wave = synthesizer.hift(mel, source)
    torch.testing.assert_close(wave, expected[f"{case}.wav_noise_free"], atol=5e-3, rtol=0)


def test_the_same_seed_gives_the_same_samples(
    synthesizer: Synthesizer, reference: Reference, expected: Tensors
) -> None:
    codes = expected["clone.codes"].numpy()
    first, again, other = (synthesizer.synthesize(codes, reference, seed) for seed in (3, 3, 4))
    assert first.dtype == np.float32 and first.shape == (2880 * len(codes) // 5,)
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != other.tobytes()


def test_read_only_arrays_and_unfinished_groups_are_taken(
    synthesizer: Synthesizer, reference: Reference, expected: Tensors
) -> None:
    codes = expected["clone.codes"].numpy()[:23].copy()
    for array in (codes, reference.vq02, reference.vq06, reference.mel, reference.speaker):
        array.flags.writeable = False
    assert synthesizer.synthesize(codes, reference, 0).shape == (5 * 2880,)


def test_a_reference_without_codes_is_refused(synthesizer: Synthesizer, reference: Reference) -> None:
    nothing = np.zeros(0, np.int32)
    with pytest.raises(InvalidInputError, match="reference"):
        synthesizer.voice(Reference(nothing, nothing, reference.mel, reference.speaker, 0.1))
