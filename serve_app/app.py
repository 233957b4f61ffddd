"""build(args): the only place where stages are wired.

No ``from __future__ import annotations`` here: Serve reads the builder's annotation as a class to validate the YAML.
"""

from typing import Any

import ray
from ray import serve
from ray.serve.handle import DeploymentHandle

from deployments.checkpoint import Layout
from deployments.encoder.deployment import Encoder
from deployments.encoder.load import weights_digest
from deployments.llm.deployment import LLM
from deployments.vocoder.deployment import Vocoder
from serve_app.config import AppArgs, Stage
from serve_app.ingress import Ingress, llm_name
from serve_app.preflight import check


def build(args: AppArgs) -> serve.Application:
    """The application for ``args``, after the checkpoint was looked through.

    Raises: CheckpointError naming everything that is wrong with the models folder.
    """
    variants = check(args)
    device = args.device if args.device != "auto" else _device()
    shared = {"models": str(args.models.absolute()), "device": device}
    limits = args.encoder.batch.model_dump()
    encoder = _bind(Encoder.options(user_config=limits), "Encoder", args.encoder, shared)  # type: ignore[attr-defined]
    vocoder = _bind(Vocoder, "Vocoder", args.vocoder, shared)
    llm = {
        variant: _bind(LLM, llm_name(variant), args.stage(variant), shared | {"variant": variant})
        for variant in variants
    }
    options = deployment_options("Ingress", args.ingress, "cpu")
    weights = weights_digest(Layout(args.models.absolute()), args.encoder.options)
    if args.voices_dir is not None:  # a replica's working directory is another
        args = args.model_copy(update={"voices_dir": args.voices_dir.absolute()})
    return Ingress.options(**options).bind(args, variants, encoder, llm, vocoder, weights)  # type: ignore[attr-defined]


def deployment_options(name: str, stage: Stage, device: str) -> dict[str, Any]:
    """A stage's arguments as options of its deployment; GPUs are asked for only where there are any."""
    gpus = stage.num_gpus if device == "cuda" else 0
    return {
        "name": name,
        "ray_actor_options": {"num_cpus": stage.num_cpus, "num_gpus": gpus},
        "max_ongoing_requests": stage.max_ongoing_requests,
        "max_queued_requests": stage.max_queued_requests,
        "graceful_shutdown_timeout_s": stage.graceful_shutdown_timeout_s,
        "autoscaling_config": stage.autoscaling.model_dump(),
    }


def _bind(deployment: Any, name: str, stage: Stage, shared: dict[str, Any]) -> DeploymentHandle:
    options = deployment_options(name, stage, shared["device"])
    own = {name: getattr(stage, name) for name in type(stage).model_fields.keys() - Stage.model_fields.keys()}
    own.pop("batch", None)  # goes to the replica as user_config
    return deployment.options(**options).bind(**shared, **options["ray_actor_options"], **own)


def _device() -> str:
    return "cuda" if ray.is_initialized() and ray.cluster_resources().get("GPU", 0) > 0 else "cpu"
