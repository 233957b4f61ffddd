import pytest
import torch

from deployments.vocoder import relative
from deployments.vocoder.flow import Voice, align_mel
from deployments.vocoder.model import Synthesizer

Tensors = dict[str, torch.Tensor]


def test_prompt_mel_is_aligned_exactly(flow_golden: Tensors) -> None:
    assert torch.equal(align_mel(flow_golden["prompt_feat"][0], 120), flow_golden["prompt_feat_aligned"][0])


@torch.inference_mode()
def test_encoder_matches_the_golden(golden_synthesizer: Synthesizer, flow_golden: Tensors) -> None:
    flow = golden_synthesizer.flow
    pairs = torch.cat([flow_golden["prompt_pairs"], flow_golden["pairs"]], dim=1)
    known = torch.tensor([pairs.shape[1]])
    ahead = torch.nn.functional.pad(pairs, (0, 0, 0, 3))
    encoded, _ = flow.encoder(flow.input_embedding(ahead), known)
    torch.testing.assert_close(encoded, flow_golden["encoder_out"], atol=1e-4, rtol=0)
    torch.testing.assert_close(golden_synthesizer.encoder.clips([pairs[0]])[0], flow.encoder_proj(encoded)[0])


@torch.inference_mode()
def test_queries_in_small_groups_give_the_same(
    golden_synthesizer: Synthesizer, flow_golden: Tensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = flow_golden["pairs"][0]
    (whole,) = golden_synthesizer.encoder.clips([pairs])
    monkeypatch.setattr(relative, "_QUERIES", 37)
    torch.testing.assert_close(golden_synthesizer.encoder.clips([pairs])[0], whole, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_mel_matches_the_golden(golden_synthesizer: Synthesizer, flow_golden: Tensors) -> None:
    voice = Voice(flow_golden["prompt_pairs"][0], flow_golden["prompt_feat_aligned"][0], flow_golden["embedding"][0])
    pairs = flow_golden["pairs"][0]
    noise = flow_golden["rand_noise"][0, :, : 2 * (len(voice.pairs) + len(pairs))].T
    (mel,) = golden_synthesizer.clips.mels([pairs], [voice], [noise])
    torch.testing.assert_close(mel.T, flow_golden["mel"][0], atol=1e-4, rtol=0)
