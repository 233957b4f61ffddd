"""Sizes of the checkpoints that make_checkpoint writes.

``full`` has the published sizes. ``tiny`` keeps every interface of them (all 5 120 audio codes, 560 LFR inputs,
80 and 128 mel bands, 192 speaker numbers, 480 samples per frame) and is narrow everywhere else, so that the whole
pipeline runs near real time on two CPU cores. Widths of the language model are multiples of 128, the group size of
the AWQ folder, and so of 64, the block size of the NF4 folder.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class ParaformerSizes:
    """FunASR's streaming encoder, VQ02. ``characters`` is the length of tokens.json."""

    width: int
    heads: int
    ffn: int
    blocks: int
    characters: int


@dataclass(frozen=True)
class S3Sizes:
    """The S3 tokenizer, VQ06; its feed-forward is four times as wide."""

    width: int
    heads: int
    blocks: int


@dataclass(frozen=True)
class CamPlusSizes:
    """The speaker network: channels of its first time-delay layer, and what its dense layers add and compute in."""

    channels: int
    growth: int
    width: int


@dataclass(frozen=True)
class FlowSizes:
    """Tokens to mel: the conformer before and after the upsampling, and the DiT estimator."""

    width: int
    heads: int
    ffn: int
    blocks: int
    up_blocks: int
    dit_width: int
    dit_heads: int
    dit_head_dim: int
    dit_depth: int


@dataclass(frozen=True)
class HiftSizes:
    """Mel to waveform: the widest convolution's channels and those of the pitch predictor."""

    channels: int
    f0_channels: int


@dataclass(frozen=True)
class Step1Sizes:
    """The language model. ``first_audio`` is the id of <audio_0>; 0 puts it right after the text pieces.

    ``vocab`` 0 rounds the number of pieces up to a multiple of 64.
    """

    hidden: int
    ffn: int
    heads: int
    groups: int
    layers: int
    first_audio: int = 0
    vocab: int = 0
    shard_bytes: int = 2_000_000_000


@dataclass(frozen=True)
class Preset:
    """Sizes of every part."""

    paraformer: ParaformerSizes
    s3: S3Sizes
    campplus: CamPlusSizes
    flow: FlowSizes
    hift: HiftSizes
    step1: Step1Sizes


TINY = Preset(
    paraformer=ParaformerSizes(width=64, heads=4, ffn=128, blocks=4, characters=64),
    s3=S3Sizes(width=64, heads=4, blocks=2),
    campplus=CamPlusSizes(channels=16, growth=8, width=16),
    flow=FlowSizes(
        width=64, heads=4, ffn=128, blocks=2, up_blocks=2, dit_width=64, dit_heads=2, dit_head_dim=32, dit_depth=3
    ),
    hift=HiftSizes(channels=32, f0_channels=16),
    step1=Step1Sizes(hidden=256, ffn=512, heads=4, groups=2, layers=4),
)
FULL = Preset(
    paraformer=ParaformerSizes(width=512, heads=4, ffn=2048, blocks=50, characters=8501),
    s3=S3Sizes(width=1280, heads=20, blocks=6),
    campplus=CamPlusSizes(channels=128, growth=32, width=128),
    flow=FlowSizes(
        width=512, heads=8, ffn=2048, blocks=6, up_blocks=4, dit_width=512, dit_heads=8, dit_head_dim=64, dit_depth=16
    ),
    hift=HiftSizes(channels=512, f0_channels=512),
    step1=Step1Sizes(hidden=3072, ffn=8192, heads=48, groups=4, layers=32, first_audio=65536, vocab=74752),
)
PRESETS = {"tiny": TINY, "full": FULL}
