import torch

from deployments.vocoder.noise import Noise


def test_noise_does_not_depend_on_how_it_is_split() -> None:
    whole, split = Noise(5), Noise(5)
    assert torch.equal(whole.flow(50, 80), torch.cat([split.flow(13, 80), split.flow(37, 80)]))
    assert torch.equal(whole.source(9600), torch.cat([split.source(480), split.source(9120)]))


def test_seeds_and_purposes_differ() -> None:
    assert not torch.equal(Noise(1).source(80), Noise(2).source(80))
    assert not torch.equal(Noise(1).source(80), Noise(1).flow(1, 80)[0])
