import torch

from deployments.vocoder.flow import Voice
from deployments.vocoder.model import Synthesizer
from deployments.vocoder.stream import Stream
from tests.vocoder.helpers import cut

Tensors = dict[str, torch.Tensor]


class FixedNoise:
    """The flow's noise as the golden has it; none for the source."""

    def __init__(self, start: torch.Tensor) -> None:
        self._start, self._taken = start, 0

    def flow(self, frames: int, bands: int) -> torch.Tensor:
        self._taken += frames
        return self._start[self._taken - frames : self._taken]

    def source(self, samples: int) -> torch.Tensor:
        return torch.zeros(samples)


def golden_stream(synthesizer: Synthesizer, golden: Tensors) -> Stream:
    voice = Voice(golden["prompt_pairs"][0], golden["prompt_feat_aligned"][0], golden["embedding"][0])
    stream = Stream.create(voice, 0, synthesizer.flow.sizes.dit, torch.float32)
    stream.noise = FixedNoise(golden["rand_noise"][0].T)  # type: ignore[assignment]
    return stream


@torch.inference_mode()
def test_streamed_mel_matches_the_golden(golden_synthesizer: Synthesizer, flow_golden: Tensors) -> None:
    codes = flow_golden["tokens"].numpy()
    stream = golden_stream(golden_synthesizer, flow_golden)
    golden_synthesizer.open([stream], [codes[:5]])
    for number, chunk in enumerate(cut(codes)):
        (mel,) = golden_synthesizer.streamer.mels([stream], [chunk])
        torch.testing.assert_close(mel.T, flow_golden[f"stream_mel.{number}"][0], atol=1e-4, rtol=0)
    assert number == 3


def test_streamed_audio_has_the_golden_lengths(golden_synthesizer: Synthesizer, flow_golden: Tensors) -> None:
    codes = flow_golden["tokens"].numpy()
    stream = golden_stream(golden_synthesizer, flow_golden)
    golden_synthesizer.open([stream], [codes[:5]])
    lengths = [len(golden_synthesizer.advance([stream], [chunk])[0]) for chunk in cut(codes)]
    assert lengths == flow_golden["stream_audio_lengths"].tolist()
