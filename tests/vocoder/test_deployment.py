import numpy as np
import torch

from deployments.checkpoint import Layout
from deployments.types import Reference
from deployments.vocoder.deployment import Vocoder
from deployments.vocoder.model import Synthesizer


async def test_deployment_gives_what_the_model_gives(
    layout: Layout, synthesizer: Synthesizer, reference: Reference, expected: dict[str, torch.Tensor]
) -> None:
    vocoder = Vocoder.func_or_class(str(layout.root), "cpu", 0, 1)
    await vocoder.check_health()
    codes = expected["clone.codes"].numpy()
    speech = await vocoder.synthesize(codes, reference, 7)
    assert np.array_equal(speech.samples, synthesizer.synthesize(codes, reference, 7))
    assert speech.queue_s >= 0 and speech.compute_s > 0 and speech.duration == 14 * 0.12
