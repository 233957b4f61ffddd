import torch

from deployments.vocoder.flow import Flow, Voice, align_mel

Tensors = dict[str, torch.Tensor]


def test_prompt_mel_is_aligned_exactly(flow_golden: Tensors) -> None:
    assert torch.equal(align_mel(flow_golden["prompt_feat"][0], 120), flow_golden["prompt_feat_aligned"][0])


@torch.inference_mode()
def test_encoder_matches_the_golden(flow: Flow, flow_golden: Tensors) -> None:
    pairs = torch.cat([flow_golden["prompt_pairs"], flow_golden["pairs"]], dim=1)
    encoded, _ = flow.encoder(flow.input_embedding(pairs))
    torch.testing.assert_close(encoded, flow_golden["encoder_out"], atol=1e-4, rtol=0)


@torch.inference_mode()
def test_mel_matches_the_golden(flow: Flow, flow_golden: Tensors) -> None:
    voice = Voice(flow_golden["prompt_pairs"][0], flow_golden["prompt_feat_aligned"][0], flow_golden["embedding"][0])
    pairs = flow_golden["pairs"][0]
    noise = flow_golden["rand_noise"][0, :, : 2 * (len(voice.pairs) + len(pairs))].T
    mel = flow(pairs, voice, noise)
    torch.testing.assert_close(mel.T, flow_golden["mel"][0], atol=1e-4, rtol=0)
