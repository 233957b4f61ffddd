"""The routes of the voice library: list, look up, store, delete."""

import asyncio
from typing import Annotated, Any

from fastapi import FastAPI, Form, Header

from deployments.errors import InvalidInputError
from serve_app.enrolment import NewVoice
from serve_app.schemas import VoiceUpload
from serve_app.service import Service
from serve_app.voice_file import Label

Patience = Annotated[float | None, Header(alias="x-request-timeout-seconds", gt=0, description="deadline, seconds")]


def add(app: FastAPI, service: Service) -> None:
    """Add the routes to ``app``."""

    @app.get("/v1/voices", include_in_schema=False)
    @app.get("/v1/audio/voices")
    async def list_voices() -> dict[str, Any]:
        """The voices a request may name."""
        labels = await asyncio.to_thread(service.voices.labels)
        return {"object": "list", "data": [_described(label) for label in labels]}

    @app.get("/v1/voices/{name}", include_in_schema=False)
    @app.get("/v1/audio/voices/{name}")
    async def get_voice(name: str) -> dict[str, Any]:
        """One voice."""
        return _described((await asyncio.to_thread(service.voices.get, name)).label)

    @app.post("/v1/audio/voices")
    async def add_voice(
        upload: Annotated[VoiceUpload, Form(media_type="multipart/form-data")], patience: Patience = None
    ) -> dict[str, Any]:
        """Store a voice under a name that requests may use from now on, in place of one of the same name."""
        return _described(await service.add_voice(await _new_voice(upload), patience))

    @app.delete("/v1/audio/voices/{name}")
    async def delete_voice(name: str) -> dict[str, Any]:
        """Delete a stored voice."""
        await asyncio.to_thread(service.voices.delete, name)
        return {"id": name, "object": "audio.voice.deleted", "deleted": True}


async def _new_voice(upload: VoiceUpload) -> NewVoice:
    if upload.transcript and upload.ref_text and upload.transcript != upload.ref_text:
        raise InvalidInputError("transcript and ref_text differ: one is enough", "ref_text", "conflict")
    return NewVoice(
        name=upload.name,
        audio=await upload.audio_sample.read(),
        transcript=upload.transcript or upload.ref_text or "",
        description=upload.description or "",
        consent=upload.consent or "",
    )


def _described(label: Label) -> dict[str, Any]:
    return {
        "id": label.name,
        "object": "audio.voice",
        "name": label.name,
        "created_at": label.created,
        "preset": label.created is None,
        "language": label.language,
        "description": label.description,
        "consent": label.consent,
        "transcript": label.transcript,
        "duration": round(label.duration, 3),
    }
