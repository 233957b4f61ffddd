"""Typed arguments of the application: what ``args:`` in configs/serve.yaml may hold.

One model per stage, every field documented; an unknown key fails the deployment. Resources and autoscaling live here
rather than under Serve's ``deployments:``, because Serve replaces whole blocks there and ignores misspelt keys.
"""

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from deployments.encoder.options import EncoderOptions
from deployments.encoder.options import Limits as BatchLimits

Variant = Literal["base", "bnb", "awq"]
VARIANTS: tuple[Variant, ...] = ("base", "bnb", "awq")


class Args(BaseModel):
    """Base of all arguments: an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Autoscaling(Args):
    """How a stage scales on its own load: requests queued and running per replica."""

    min_replicas: int = Field(1, ge=0, description="0 lets the stage vanish while unused")
    max_replicas: int = Field(1, ge=1, description="max_replicas x num_gpus of all stages has to fit the GPUs")
    target_ongoing_requests: float = Field(2, gt=0, description="load per replica that autoscaling aims at")
    upscale_delay_s: float = Field(5, ge=0, description="load has to last this long before replicas are added")
    downscale_delay_s: float = Field(120, ge=0, description="idleness has to last this long before replicas go")
    look_back_period_s: float = Field(10, gt=0, description="window over which load is averaged")


class Stage(Args):
    """Resources, limits and scaling of one stage."""

    num_cpus: float = Field(0.2, gt=0, description="CPU share; its whole part, at least 1, becomes torch's threads")
    num_gpus: float = Field(0, ge=0, le=1, description="GPU share on machines with GPUs, memory capped to it; else 0")
    max_ongoing_requests: int = Field(8, ge=1, description="requests one replica takes at a time")
    max_queued_requests: int = Field(64, ge=-1, description="requests that may wait for a replica; -1: no limit")
    graceful_shutdown_timeout_s: float = Field(120, gt=0, description="time that running requests get at scale-down")
    autoscaling: Autoscaling = Autoscaling()

    @model_validator(mode="after")
    def _target_is_reachable(self) -> "Stage":
        if self.autoscaling.target_ongoing_requests > self.max_ongoing_requests:
            raise ValueError("autoscaling.target_ongoing_requests is above max_ongoing_requests: it would never scale")
        if self.autoscaling.min_replicas > self.autoscaling.max_replicas:
            raise ValueError("autoscaling.min_replicas is above max_replicas")
        return self


class EncoderStage(Stage):
    """The encoder: resources, its options, and the limits of a batch."""

    options: EncoderOptions = EncoderOptions()
    batch: BatchLimits = Field(BatchLimits(), description="can be changed without a restart, through user_config")


class LLMStage(Stage):
    """A language model variant."""

    slots: int | None = Field(None, ge=1, description="requests that decode at once; default: what memory allows")
    max_length: int = Field(8192, ge=64, le=8192, description="tokens of a prompt and its answer")
    max_waiting: int = Field(64, ge=0, description="requests that may wait for a slot; more get 429")
    handouts: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (1, 5, 8, 16),
        min_length=1,
        description="groups of a stream's codes handed on together, the last number repeating: the vocoder's chunks",
    )
    deterministic: bool = Field(False, description="on a GPU, the same seed gives the same codes in any company")


class VocoderStage(Stage):
    """The vocoder."""

    precision: Literal["auto", "float32", "tf32", "float16", "bfloat16"] = Field(
        "auto", description="auto: float16 on a GPU, float32 on a CPU"
    )
    max_batch: int = Field(16, ge=1, description="whole clips, or chunks of streams, in one batch")
    max_ahead_s: float = Field(20, gt=0, description="how far a stream may run ahead of its playing, seconds")
    stream_memory_gb: float | None = Field(
        None, gt=0, description="memory for streams' states; those that do not fit wait; default: what is left"
    )
    chunk_pairs: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (15, 24, 48), min_length=1, description="a stream's chunks in pairs of tokens, 25 a second; the last repeats"
    )
    conformer_tokens: int | None = Field(
        None, ge=1, description="past tokens that a stream's conformer sees; default: all, as published"
    )


class Limits(Args):
    """What a request may ask for."""

    max_input_chars: int = Field(4096, ge=1, description="characters of text in one request")
    max_body_mb: float = Field(32, gt=0, description="size of a request's body, MiB")
    min_clip_s: float = Field(0.5, gt=0, description="shortest reference or input clip, seconds")
    min_voice_s: float = Field(1, gt=0, description="shortest clip that can be stored as a voice, seconds")
    max_voices: int = Field(1000, ge=1, description="voices that callers can store")
    max_voices_mb: float = Field(4096, gt=0, description="size of all stored voices together, MiB")
    max_clip_s: float = Field(30, gt=0, description="longest reference, and longest piece of audio to edit, seconds")
    max_edit_s: float = Field(120, gt=0, description="longest audio to edit, seconds; cut where it is quiet")
    segment_s: float = Field(20, gt=0, description="long text is spoken in pieces estimated at up to so many seconds")
    request_timeout_s: float = Field(120, gt=0, description="deadline of a request through all stages, seconds")
    body_timeout_s: float = Field(30, gt=0, description="time within which a request's body has to arrive, seconds")
    max_concurrent_requests: int = Field(128, ge=1, description="speech requests one ingress works on; more get 429")
    requests_per_minute: float | None = Field(None, gt=0, description="per key or address; none: no limit")
    allow_urls: bool = Field(False, description="fetch audio from *_audio_url fields, public addresses only")
    url_timeout_s: float = Field(10, gt=0, description="time for fetching one URL, seconds")


def _keys_from_environment() -> list[SecretStr]:
    return [SecretStr(key) for key in os.environ.get("EDITX_API_KEYS", "").split(",") if key]


class AppArgs(Args):
    """Everything configs/serve.yaml may say under ``args:``."""

    models: Path = Field(
        default_factory=lambda: Path(os.environ.get("EDITX_MODELS", "checkpoints/tiny")),
        description="folder in the published layout; default: $EDITX_MODELS, else the embedded checkpoint",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: GPUs where the cluster has any")
    variants: list[Variant] | None = Field(None, description="variants to deploy; default: those whose folders exist")
    default_variant: Variant = Field("base", description="for requests that name none; the first deployed if absent")
    default_voice: str = Field("story_teller", description="for requests that name none")
    retry_on: tuple[Literal["empty", "silent", "clipped", "runaway"], ...] = Field(
        ("empty", "silent", "clipped", "runaway"),
        description="flaws for which speech is made once more, with another seed, if the caller fixed none",
    )
    voices: Path | None = Field(None, description="folder with a voices.json of further preset voices")
    voices_dir: Path | None = Field(
        None, description="folder for the voices that callers store, one that all nodes share; none: they cannot"
    )
    api_keys: list[SecretStr] = Field(
        default_factory=_keys_from_environment,
        description="keys that may ask, as Bearer tokens; default: $EDITX_API_KEYS, comma-separated; none: everybody",
    )
    limits: Limits = Limits()
    ingress: Stage = Stage(num_cpus=0.1, max_ongoing_requests=256)
    encoder: EncoderStage = EncoderStage()
    llm: dict[Variant, LLMStage] = Field(default_factory=dict, description="one block per variant")
    vocoder: VocoderStage = VocoderStage()

    def default_among(self, deployed: list[Variant]) -> Variant:
        """The variant of requests that name none."""
        return self.default_variant if self.default_variant in deployed else deployed[0]

    def stage(self, variant: Variant) -> LLMStage:
        """The language model stage of a variant; only the default variant stays up when nothing is said of it."""
        up = 1 if variant == self.default_variant else 0
        return self.llm.get(variant, LLMStage(autoscaling=Autoscaling(min_replicas=up)))
