import pytest
import torch

from deployments.vocoder.hift import Hift
from deployments.vocoder.spectrum import Spectrum

Tensors = dict[str, torch.Tensor]


@torch.inference_mode()
def test_f0_matches_the_golden(hift: Hift, hift_golden: Tensors) -> None:
    torch.testing.assert_close(hift.f0_predictor(hift_golden["mel"][:, :, None]), hift_golden["f0"], atol=1e-4, rtol=0)


@torch.inference_mode()
def test_source_without_noise_matches_the_golden(hift: Hift, hift_golden: Tensors) -> None:
    source = hift.m_source(hift_golden["f0_contour"], torch.zeros(1, 19200))
    torch.testing.assert_close(source, hift_golden["source_noise_free"][0], atol=1e-4, rtol=0)


@torch.inference_mode()
def test_one_draw_stands_for_the_nine_noises(hift: Hift, hift_golden: Tensors) -> None:
    noise = torch.randn(64, 4800, generator=torch.Generator().manual_seed(0))
    source = hift.m_source(torch.zeros(64, 10), noise).atanh() - hift.m_source.l_linear.bias
    deviation = hift.sizes.sine_amplitude / 3 * hift.m_source.l_linear.weight.norm()
    assert source.std().item() == pytest.approx(deviation.item(), rel=0.01)


@pytest.mark.parametrize(("source", "wave"), [("source_noise_free", "source"), ("source_random", "random")])
@torch.inference_mode()
def test_wave_matches_the_golden(hift: Hift, hift_golden: Tensors, source: str, wave: str) -> None:
    samples = hift(hift_golden["mel"], hift_golden[source][0])
    torch.testing.assert_close(samples, hift_golden[f"wav_from_{wave}"], atol=1e-5, rtol=0)


def test_spectrum_equals_torch(hift_golden: Tensors) -> None:
    spectrum, samples = Spectrum(16, 4, torch.device("cpu")), hift_golden["source_random"][0]
    window = torch.hann_window(16)
    wanted = torch.stft(samples, 16, 4, 16, window, return_complex=True)
    found = spectrum.analyse(samples, torch.tensor([19200]))
    torch.testing.assert_close(found, torch.cat([wanted.real, wanted.imag], dim=1), atol=1e-5, rtol=0)
    changed = wanted * torch.linspace(0, 2, wanted.shape[2])
    inverse = torch.istft(changed, 16, 4, 16, window)
    parts = torch.cat([changed.real, changed.imag], dim=1)
    torch.testing.assert_close(spectrum.synthesise(parts, torch.tensor([19200])), inverse, atol=1e-5, rtol=0)
