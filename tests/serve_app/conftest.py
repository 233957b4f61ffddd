from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from serve_app.audio_format import ClipLimits
from serve_app.config import AppArgs
from serve_app.ingress import create_app
from serve_app.pipeline import Stages
from serve_app.service import Service
from serve_app.voices import PRESETS, Voices
from tests.serve_app.fakes import FakeStates, fake_stages

STATES = {"Encoder": "ready", "Vocoder": "ready", "LLM-base": "ready", "LLM-awq": "scaled_to_zero"}


@pytest.fixture(scope="session")
def voices() -> Voices:
    return Voices([PRESETS], ClipLimits(0.5, 30))


@pytest.fixture
def stages() -> Stages:
    return fake_stages()


def service_over(stages: Stages, voices: Voices, **args: object) -> Service:
    """A service with base and awq deployed; ``args`` as in the YAML."""
    settings = AppArgs.model_validate({"models": Path("unused"), "api_keys": []} | args)
    return Service(settings, ["base", "awq"], voices, stages, FakeStates(STATES))


@pytest.fixture
def client(stages: Stages, voices: Voices) -> TestClient:
    return TestClient(create_app(service_over(stages, voices)), raise_server_exceptions=False)
