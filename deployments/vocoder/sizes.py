"""What cosyvoice.yaml says of the two models' sizes.

The file is HyperPyYAML; it is read as plain mappings and nothing it names is instantiated. References such as
``!ref <sample_rate>`` arrive as the string ``<sample_rate>`` and are looked up at the top of the file. Settings
that would change the arithmetic in ways this implementation does not know are refused.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployments.checkpoint import read_yaml
from deployments.errors import CheckpointError

LOOKAHEAD_KERNEL = 3


@dataclass(frozen=True)
class ConformerSizes:
    """The token encoder: ``blocks`` at 25 Hz, then ``up_blocks`` at 50 Hz."""

    input: int
    hidden: int
    heads: int
    feed_forward: int
    blocks: int
    up_blocks: int
    lookahead: int
    upsample: int
    key_bias: bool


@dataclass(frozen=True)
class DiTSizes:
    """The estimator of the flow."""

    input: int
    output: int
    hidden: int
    heads: int
    head_dim: int
    depth: int
    mlp: int


@dataclass(frozen=True)
class FlowSizes:
    """Token pairs to mel: embedding, conformer, estimator."""

    vocabulary: int
    embedding: int
    speaker: int
    mel: int
    guidance: float
    conformer: ConformerSizes
    dit: DiTSizes


@dataclass(frozen=True)
class HiftSizes:
    """Mel to samples."""

    mel: int
    channels: int
    f0_channels: int
    harmonics: int
    sample_rate: int
    sine_amplitude: float
    noise_amplitude: float
    voiced_threshold: float
    upsample_rates: tuple[int, ...]
    upsample_kernels: tuple[int, ...]
    n_fft: int
    hop: int
    kernels: tuple[int, ...]
    dilations: tuple[tuple[int, ...], ...]
    source_kernels: tuple[int, ...]
    source_dilations: tuple[tuple[int, ...], ...]
    slope: float
    limit: float

    @property
    def frame(self) -> int:
        """Samples per mel frame."""
        samples = self.hop
        for rate in self.upsample_rates:
            samples *= rate
        return samples


class _Section:
    """A mapping of the file whose values are taken by name and type; what is wrong is collected, not raised."""

    def __init__(self, content: Any, where: str, root: Mapping[str, Any], problems: list[str]) -> None:
        self._where, self._root, self._problems = where, root, problems
        self._content = content if isinstance(content, Mapping) else {}
        if not isinstance(content, Mapping):
            problems.append(f"{where}: missing or not a mapping")

    def section(self, name: str) -> "_Section":
        return _Section(self._content.get(name), f"{self._where}{name}.", self._root, self._problems)

    def integer(self, name: str, default: int | None = None) -> int:
        return self._take(name, int, default, 1)

    def number(self, name: str, default: float | None = None) -> float:
        return float(self._take(name, (int, float), default, 1.0))

    def integers(self, name: str) -> tuple[int, ...]:
        return tuple(self._list(name, int))

    def nested(self, name: str) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(row) for row in self._list(name, list))

    def only(self, name: str, supported: Any) -> None:
        """Refuse a setting that has another value than the one supported; absent is fine."""
        value = self._resolve(self._content.get(name, supported))
        if value != supported:
            self._problems.append(f"{self._where}{name}: {value!r} is not supported, only {supported!r}")

    def flag(self, name: str, default: bool) -> bool:
        return bool(self._resolve(self._content.get(name, default)))

    def _take(self, name: str, kind: Any, default: Any, fallback: Any) -> Any:
        value = self._resolve(self._content.get(name, default))
        if isinstance(value, kind) and not isinstance(value, bool):
            return value
        self._problems.append(f"{self._where}{name}: missing or not a number")
        return fallback

    def _list(self, name: str, kind: type) -> list[Any]:
        value = self._resolve(self._content.get(name))
        if isinstance(value, list) and all(isinstance(item, kind) for item in value):
            return value
        self._problems.append(f"{self._where}{name}: missing or not a list")
        return []

    def _resolve(self, value: Any) -> Any:
        reference = re.fullmatch(r"<(\w+)>", value) if isinstance(value, str) else None
        return self._root.get(reference[1]) if reference else value


def read_sizes(path: Path) -> tuple[FlowSizes, HiftSizes]:
    """Sizes of flow and HiFT. Raises CheckpointError with every problem of the file."""
    content = read_yaml(path)
    problems: list[str] = []
    root = _Section(content, "", content, problems)
    sizes = _flow(root.section("flow")), _hift(root.section("hift"))
    if problems:
        raise CheckpointError([f"{path}: {problem}" for problem in problems])
    return sizes


def _flow(flow: _Section) -> FlowSizes:
    decoder = flow.section("decoder")
    flow.only("output_type", "mel")
    return FlowSizes(
        vocabulary=flow.integer("vocab_size"),
        embedding=flow.section("input_embedding").integer("input_size") // 2,
        speaker=flow.integer("spk_embed_dim"),
        mel=flow.integer("output_size"),
        guidance=decoder.number("inference_cfg_rate", 0.7),
        conformer=_conformer(flow.section("encoder")),
        dit=_dit(decoder.section("estimator")),
    )


def _conformer(encoder: _Section) -> ConformerSizes:
    for name, value in {
        "input_layer": "linear",
        "pos_enc_layer_type": "rel_pos_espnet",
        "selfattention_layer_type": "rel_selfattn",
        "normalize_before": True,
        "activation_type": "swish",
        "up_stride": 2,
        "up_scale_factor": 2,
    }.items():
        encoder.only(name, value)
    return ConformerSizes(
        input=encoder.integer("input_size"),
        hidden=encoder.integer("output_size"),
        heads=encoder.integer("attention_heads"),
        feed_forward=encoder.integer("linear_units"),
        blocks=encoder.integer("num_blocks"),
        up_blocks=encoder.integer("num_up_blocks"),
        lookahead=encoder.integer("pre_lookahead_len", LOOKAHEAD_KERNEL),
        upsample=encoder.integer("up_stride", 2),
        key_bias=encoder.flag("key_bias", True),
    )


def _dit(estimator: _Section) -> DiTSizes:
    hidden = estimator.integer("hidden_size")
    return DiTSizes(
        input=estimator.integer("in_channels"),
        output=estimator.integer("out_channels"),
        hidden=hidden,
        heads=estimator.integer("num_heads", 8),
        head_dim=estimator.integer("head_dim", 64),
        depth=estimator.integer("depth"),
        mlp=int(hidden * estimator.number("mlp_ratio", 4.0)),
    )


def _hift(hift: _Section) -> HiftSizes:
    stft, f0 = hift.section("istft_params"), hift.section("f0_predictor")
    f0.only("num_class", 1)
    return HiftSizes(
        mel=hift.integer("in_channels"),
        channels=hift.integer("base_channels"),
        f0_channels=f0.integer("cond_channels"),
        harmonics=hift.integer("nb_harmonics"),
        sample_rate=hift.integer("sampling_rate"),
        sine_amplitude=hift.number("nsf_alpha", 0.1),
        noise_amplitude=hift.number("nsf_sigma", 0.003),
        voiced_threshold=hift.number("nsf_voiced_threshold", 10),
        upsample_rates=hift.integers("upsample_rates"),
        upsample_kernels=hift.integers("upsample_kernel_sizes"),
        n_fft=stft.integer("n_fft"),
        hop=stft.integer("hop_len"),
        kernels=hift.integers("resblock_kernel_sizes"),
        dilations=hift.nested("resblock_dilation_sizes"),
        source_kernels=hift.integers("source_resblock_kernel_sizes"),
        source_dilations=hift.nested("source_resblock_dilation_sizes"),
        slope=hift.number("lrelu_slope", 0.1),
        limit=hift.number("audio_limit", 0.99),
    )


PUBLISHED_FLOW = FlowSizes(
    vocabulary=5121,
    embedding=256,
    speaker=192,
    mel=80,
    guidance=0.7,
    conformer=ConformerSizes(
        input=512, hidden=512, heads=8, feed_forward=2048, blocks=6, up_blocks=4, lookahead=3, upsample=2, key_bias=True
    ),
    dit=DiTSizes(input=320, output=80, hidden=512, heads=8, head_dim=64, depth=16, mlp=2048),
)
PUBLISHED_HIFT = HiftSizes(
    mel=80,
    channels=512,
    f0_channels=512,
    harmonics=8,
    sample_rate=24_000,
    sine_amplitude=0.1,
    noise_amplitude=0.003,
    voiced_threshold=10,
    upsample_rates=(8, 5, 3),
    upsample_kernels=(16, 11, 7),
    n_fft=16,
    hop=4,
    kernels=(3, 7, 11),
    dilations=((1, 3, 5), (1, 3, 5), (1, 3, 5)),
    source_kernels=(7, 7, 11),
    source_dilations=((1, 3, 5), (1, 3, 5), (1, 3, 5)),
    slope=0.1,
    limit=0.99,
)
