"""The HTTP surface: routes over a Service, and the deployment that serves them. No tensor work."""

from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Form, Header, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from ray import serve
from ray.serve.handle import DeploymentHandle

from deployments.errors import NotFoundError
from deployments.llm.prompt import edit_types
from serve_app import errors, voice_routes
from serve_app.admission import Admission, Auth
from serve_app.audio_format import MEDIA_TYPES, ClipLimits
from serve_app.body import BodyLimit
from serve_app.config import AppArgs, Variant
from serve_app.pipeline import Stages
from serve_app.requests import MODEL, Uploads
from serve_app.responses import audio_file, audio_stream, event_stream
from serve_app.schemas import SpeechRequest
from serve_app.service import Service
from serve_app.stages import RemoteEncoder, RemoteLLM, RemoteVocoder, ReplicaStates
from serve_app.voices import PRESETS, Voices, library

Patience = Annotated[float | None, Header(alias="x-request-timeout-seconds", gt=0, description="deadline, seconds")]
DESCRIPTION = "Zero-shot voice cloning and audio editing with Step-Audio-EditX; OpenAI's speech API and more."


def llm_name(variant: str) -> str:
    """The deployment's name of a language model variant."""
    return f"LLM-{variant}"


def create_app(service: Service) -> FastAPI:
    """The ASGI application over ``service``."""
    app = FastAPI(title="Step-Audio-EditX on Ray Serve", description=DESCRIPTION)
    errors.install(app)
    limits = service.args.limits
    # The last one added is the outermost. Only requests whose body is there count as in flight.
    app.add_middleware(Admission, max_in_flight=limits.max_concurrent_requests, per_minute=limits.requests_per_minute)
    app.add_middleware(BodyLimit, max_bytes=int(limits.max_body_mb * 2**20), timeout_s=limits.body_timeout_s)
    app.add_middleware(Auth, keys=[key.get_secret_value() for key in service.args.api_keys])
    _add_speech(app, service)
    _add_listings(app, service)
    voice_routes.add(app, service)
    _add_health(app, service)
    return app


def _add_speech(app: FastAPI, service: Service) -> None:
    media: dict[int | str, dict[str, Any]] = {200: {"content": {media_type: {} for media_type in MEDIA_TYPES.values()}}}

    @app.post("/v1/audio/speech", response_class=Response, responses=media)
    async def speech(request: Request, body: SpeechRequest, patience: Patience = None) -> Response:
        """Speech, or an edit of speech: one file, a stream of its bytes, or server-sent events."""
        return await answer(service, request, body, Uploads(), patience)

    @app.post("/v1/audio/speech/upload", response_class=Response, responses=media)
    async def speech_upload(
        request: Request,
        payload: Annotated[str, Form(description="the JSON body of /v1/audio/speech")],
        prompt_audio_file: UploadFile | None = None,
        input_audio_file: UploadFile | None = None,
        patience: Patience = None,
    ) -> Response:
        """The same with audio as files."""
        try:
            body = SpeechRequest.model_validate_json(payload)
        except ValidationError as error:
            raise RequestValidationError(error.errors()) from None
        uploads = Uploads(await _content(prompt_audio_file), await _content(input_audio_file))
        return await answer(service, request, body, uploads, patience)


async def _content(file: UploadFile | None) -> bytes | None:
    return None if file is None else await file.read()


def _add_listings(app: FastAPI, service: Service) -> None:
    async def models() -> list[dict[str, Any]]:
        states = await service.states.get()
        listed: list[tuple[str, Variant]] = [(MODEL, service.args.default_among(service.variants))]
        listed += [(f"{MODEL}-{variant}", variant) for variant in service.variants]
        return [
            {
                "id": name,
                "object": "model",
                "created": 0,
                "owned_by": "stepfun-ai",
                "variant": variant,
                "state": states.get(llm_name(variant), "starting"),
            }
            for name, variant in listed
        ]

    @app.get("/v1/models")
    async def list_models() -> dict[str, Any]:
        """The models and the state of the variant behind each."""
        return {"object": "list", "data": await models()}

    @app.get("/v1/models/{name}")
    async def get_model(name: str) -> dict[str, Any]:
        """One model."""
        for model in await models():
            if model["id"] == name:
                return model
        raise NotFoundError(f"no model is named {name!r}; see /v1/models", "model", "model_not_found")

    @app.get("/v1/tags")
    async def list_tags() -> dict[str, list[str]]:
        """The edit types and their options."""
        return edit_types()


def _add_health(app: FastAPI, service: Service) -> None:
    @app.get("/healthz")
    async def live() -> dict[str, str]:
        """The ingress is alive."""
        return {"status": "ok"}

    @app.get("/readyz")
    async def ready() -> JSONResponse:
        """200 once every stage that has to be up answered its warm-up, else 503; the states of all stages."""
        states = await service.states.get()
        waiting = [name for name in required(service) if states.get(name) != "ready"]
        body = {"status": "waiting" if waiting else "ready", "waiting_for": waiting, "stages": states}
        return JSONResponse(body, status_code=503 if waiting else 200)


def required(service: Service) -> list[str]:
    """The deployments without which no request can be answered: those that never scale to zero."""
    stages = {"Encoder": service.args.encoder, "Vocoder": service.args.vocoder}
    stages |= {llm_name(variant): service.args.stage(variant) for variant in service.variants}
    return [name for name, stage in stages.items() if stage.autoscaling.min_replicas > 0]


async def answer(
    service: Service, request: Request, body: SpeechRequest, uploads: Uploads, patience: float | None
) -> Response:
    """Speech in the way the request asks for."""
    metadata = body.metadata or {}
    kind = body.stream_format or ("audio" if body.stream else None)
    if kind is None:
        return audio_file(await service.speech(body, uploads, patience), metadata)
    spoken = await service.stream(body, uploads, patience)
    respond = audio_stream if kind == "audio" else event_stream
    return respond(spoken, metadata, request.headers.get("x-request-id", "unknown"))


@serve.deployment
@serve.ingress()
class Ingress:
    """The application's entry: wires the stages' handles to the HTTP surface."""

    def __init__(
        self,
        args: AppArgs,
        variants: list[Variant],
        encoder: DeploymentHandle,
        llm: dict[Variant, DeploymentHandle],
        vocoder: DeploymentHandle,
        encoder_weights: str,
    ) -> None:
        folders: list[Path] = [PRESETS] + ([args.voices] if args.voices else [])
        limits = ClipLimits(args.limits.min_clip_s, args.limits.max_clip_s)
        stages = Stages(
            RemoteEncoder("Encoder", encoder),
            {variant: RemoteLLM(llm_name(variant), handle) for variant, handle in llm.items()},
            RemoteVocoder("Vocoder", vocoder),
        )
        states = ReplicaStates(serve.get_replica_context().app_name)
        voices = Voices(folders, limits, library(args, encoder_weights))
        self._service = Service(args, variants, voices, stages, states)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return create_app(self._service)
