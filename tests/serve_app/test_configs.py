"""Every shipped YAML, read strictly: Serve itself would drop a misspelt key without a word."""

from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel
from ray.serve.schema import ServeDeploySchema

from serve_app.app import deployment_options
from serve_app.config import AppArgs, Stage
from serve_app.ingress import llm_name

CONFIGS = Path(__file__).parents[2] / "configs"
GPUS = {"serve.yaml": 1, "serve.gpu.yaml": 1, "serve.2gpu.yaml": 2}
FREE_FORM = {"args", "user_config", "runtime_env", "ray_actor_options", "grpc_options"}


def shipped() -> list[Path]:
    return sorted(CONFIGS.glob("*.yaml"))


def models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in models_in(argument)]


def unknown_keys(node: Any, schemas: list[type[BaseModel]], path: str = "") -> list[str]:
    """Keys under ``node`` that no field of ``schemas`` has."""
    if isinstance(node, list):
        return [key for item in node for key in unknown_keys(item, schemas, path)]
    if not isinstance(node, dict) or not schemas:
        return []
    fields = {name: field for schema in schemas for name, field in schema.model_fields.items()}
    unknown = [f"{path}{key}" for key in node if key not in fields]
    for key, value in node.items():
        if key in fields and key not in FREE_FORM:
            unknown += unknown_keys(value, models_in(fields[key].annotation), f"{path}{key}.")
    return unknown


def args_of(path: Path) -> AppArgs:
    (application,) = yaml.safe_load(path.read_text())["applications"]
    return AppArgs.model_validate(application["args"])


def stages_of(args: AppArgs) -> dict[str, Stage]:
    named = {"Ingress": args.ingress, "Encoder": args.encoder, "Vocoder": args.vocoder}
    return named | {llm_name(variant): args.stage(variant) for variant in ("base", "bnb", "awq")}


def test_a_misspelt_key_is_found() -> None:
    config = {"http_options": {"prot": 1}, "applications": [{"deployments": [{"name": "x", "max_ongoing": 3}]}]}
    found = unknown_keys(config, [ServeDeploySchema])
    assert found == ["http_options.prot", "applications.deployments.max_ongoing"]


@pytest.mark.parametrize("path", shipped(), ids=lambda path: path.name)
def test_no_unknown_key(path: Path) -> None:
    config = yaml.safe_load(path.read_text())
    assert unknown_keys(config, [ServeDeploySchema]) == []
    ServeDeploySchema.model_validate(config)
    args_of(path)


@pytest.mark.parametrize("path", shipped(), ids=lambda path: path.name)
def test_overridden_deployments_exist(path: Path) -> None:
    (application,) = yaml.safe_load(path.read_text())["applications"]
    overridden = {deployment["name"] for deployment in application.get("deployments", [])}
    assert overridden <= stages_of(args_of(path)).keys()


@pytest.mark.parametrize("path", shipped(), ids=lambda path: path.name)
def test_all_replicas_fit_the_gpus(path: Path) -> None:
    stages = stages_of(args_of(path)).values()
    assert sum(stage.autoscaling.max_replicas * stage.num_gpus for stage in stages) <= GPUS[path.name] + 1e-9
    assert all(stage.num_gpus > 0 for stage in list(stages)[1:])


def test_the_default_configuration_fits_two_cores_and_stays_on_loopback() -> None:
    path = CONFIGS / "serve.yaml"
    stages = stages_of(args_of(path)).values()
    assert sum(stage.autoscaling.max_replicas * stage.num_cpus for stage in stages) <= 2
    assert yaml.safe_load(path.read_text())["http_options"] == {"host": "127.0.0.1", "port": 8003}


def test_the_encoder_scales_soonest() -> None:
    args = args_of(CONFIGS / "serve.yaml")
    others = [args.vocoder, *(args.stage(variant) for variant in ("base", "bnb", "awq"))]
    assert all(args.encoder.autoscaling.upscale_delay_s < stage.autoscaling.upscale_delay_s for stage in others)


def test_gpus_are_asked_for_only_on_gpu_machines() -> None:
    stage = args_of(CONFIGS / "serve.yaml").vocoder
    assert deployment_options("Vocoder", stage, "cpu")["ray_actor_options"]["num_gpus"] == 0
    assert deployment_options("Vocoder", stage, "cuda")["ray_actor_options"]["num_gpus"] == stage.num_gpus
