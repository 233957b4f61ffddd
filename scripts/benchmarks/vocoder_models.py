"""What the vocoder's benchmark runs: models with random weights, made on the device, and utterances for them."""

import gc
from dataclasses import dataclass, replace

import numpy as np
import torch

from deployments.types import AUDIO_CODES, GROUP_SECONDS, GROUP_SIZE, SAMPLE_RATE, VQ02_CODES, Reference
from deployments.vocoder import precision
from deployments.vocoder.chunks import Chunk, Chunks
from deployments.vocoder.model import Settings, Synthesizer, Utterance
from deployments.vocoder.sizes import PUBLISHED_FLOW, PUBLISHED_HIFT
from deployments.vocoder.weights import build
from scripts.checkpoints import flow, hift
from scripts.checkpoints.presets import Preset
from scripts.checkpoints.weights import Source

SEED = 1


@dataclass(frozen=True)
class Plan:
    """How much to measure."""

    preset: Preset
    device: torch.device
    repeats: int
    prompt_s: float
    clips_s: tuple[float, ...]
    batch: tuple[int, float]
    stream_s: float
    streams: tuple[int, ...]
    precisions: tuple[str, ...]
    brief: bool


def make(plan: Plan, chosen: str, graphs: bool, conformer_tokens: int | None = None) -> Synthesizer:
    """A synthesizer with random weights on the device."""
    gc.collect()
    if plan.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    sizes, hift_sizes = plan.preset.flow, plan.preset.hift
    conformer = replace(
        PUBLISHED_FLOW.conformer,
        input=sizes.width,
        hidden=sizes.width,
        heads=sizes.heads,
        feed_forward=sizes.ffn,
        blocks=sizes.blocks,
        up_blocks=sizes.up_blocks,
    )
    dit = replace(
        PUBLISHED_FLOW.dit,
        hidden=sizes.dit_width,
        heads=sizes.dit_heads,
        head_dim=sizes.dit_head_dim,
        depth=sizes.dit_depth,
        mlp=4 * sizes.dit_width,
    )
    models = build(
        replace(PUBLISHED_FLOW, embedding=sizes.width // 2, conformer=conformer, dit=dit),
        replace(PUBLISHED_HIFT, channels=hift_sizes.channels, f0_channels=hift_sizes.f0_channels),
    )
    device = str(plan.device)
    models[0].load_state_dict(flow.state(sizes, Source(SEED, "flow.pt", device)), assign=True)
    models[1].load_state_dict(hift.state(hift_sizes, Source(SEED, "hift.pt", device)), assign=True)
    settings = Settings(*precision.apply(chosen), graphs, conformer_tokens=conformer_tokens)
    for model in models:
        model.requires_grad_(False).to(plan.device)
    return Synthesizer(*models, settings)


def _codes(seconds: float, random: np.random.Generator) -> np.ndarray:
    groups = round(seconds / GROUP_SECONDS)
    first = random.integers(0, VQ02_CODES, (groups, 2))
    second = random.integers(VQ02_CODES, AUDIO_CODES, (groups, 3))
    return np.concatenate([first, second], axis=1).reshape(-1).astype(np.int32)


def make_utterance(plan: Plan, seconds: float, seed: int) -> Utterance:
    random = np.random.default_rng(seed)
    groups = _codes(plan.prompt_s, random).reshape(-1, GROUP_SIZE)
    reference = Reference(
        vq02=groups[:, :2].reshape(-1),
        vq06=groups[:, 2:].reshape(-1) - VQ02_CODES,
        mel=random.normal(-5, 2, (round(plan.prompt_s * SAMPLE_RATE / 480), 80)).astype(np.float32),
        speaker=random.normal(size=192).astype(np.float32),
        duration=plan.prompt_s,
    )
    return Utterance(_codes(seconds, random), reference, seed)


def make_chunks(codes: np.ndarray) -> list[Chunk]:
    taken = Chunks()
    taken.feed(codes)
    taken.end()
    return list(iter(taken.next, None))
