"""Request and response bodies of the HTTP surface. Unknown fields are refused: a typo must not pass silently."""

from typing import Annotated, Literal

from fastapi import UploadFile
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from serve_app.config import Variant

Mode = Literal["clone", "emotion", "style", "speed", "paralinguistic", "denoise", "vad"]
Format = Literal["mp3", "opus", "aac", "flac", "wav", "pcm"]
Text = Annotated[str, StringConstraints(max_length=100_000)]
Note = Annotated[str, StringConstraints(max_length=1000)]
HeaderText = Annotated[str, StringConstraints(max_length=512, pattern=r"^[\x20-\x7e]*$")]
HeaderName = Annotated[str, StringConstraints(max_length=64, pattern=r"^[A-Za-z0-9_-]+$")]


class Body(BaseModel):
    """Base of request bodies."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class VoiceId(Body):
    """A voice by id, as OpenAI's clients may send it."""

    id: str


class StepAudio(Body):
    """What Step-Audio-EditX can do beyond plain speech."""

    mode: Mode = "clone"
    model_variant: Variant | None = Field(None, description="language model variant; default from the configuration")
    prompt_text: Text | None = Field(None, description="transcript of the caller's own reference")
    prompt_audio_base64: str | None = Field(None, description="the caller's own reference for clone")
    prompt_audio_url: str | None = Field(None, max_length=2048, description="the same by URL, where that is allowed")
    input_audio_base64: str | None = Field(None, description="the audio to edit")
    input_audio_url: str | None = Field(None, max_length=2048, description="the same by URL, where that is allowed")
    audio_text: Text | None = Field(None, description="transcript of the audio to edit")
    edit_info: str | None = Field(None, max_length=64, description="the edit's option, e.g. happy; see /v1/tags")
    intensity: float = Field(1.0, ge=0.1, le=3.0, description="other values put an adverb before the option")
    n_edit_iter: int = Field(1, ge=1, le=4, description="rounds; each edits the audio of the round before")


class VoiceUpload(Body):
    """POST /v1/audio/voices, as multipart/form-data."""

    name: Annotated[str, StringConstraints(max_length=256)] = Field(description="also its id; an old one is replaced")
    audio_sample: UploadFile = Field(description="1 to 30 s of one speaker")
    transcript: Text | None = Field(None, description="what the audio says")
    ref_text: Text | None = Field(None, description="another name for transcript")
    consent: Note | None = Field(None, description="kept with the voice, e.g. who agreed to its use")
    description: Note | None = None


class SpeechRequest(Body):
    """POST /v1/audio/speech."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": "step-audio-editx",
                    "voice": "story_teller",
                    "input": "测试语音合成效果",
                    "step_audio": {"mode": "clone", "model_variant": "base"},
                }
            ]
        }
    )

    model: str = Field("step-audio-editx", description="step-audio-editx, or step-audio-editx-{base,bnb,awq}")
    input: Text = Field("", description="text to speak; for paralinguistic the new text with tags")
    voice: str | VoiceId | None = Field(None, description="a preset voice; default from the configuration")
    response_format: Format | None = Field(None, description="default mp3; wav when step_audio is present")
    speed: float = Field(1.0, ge=0.25, le=4.0, description="pitch is kept")
    instructions: Text | None = Field(None, description="free text for modes whose instruction takes an option")
    seed: int | None = Field(None, ge=0, lt=2**63, description="the same seed gives the same audio")
    temperature: float = Field(0.7, ge=0.0, le=2.0, description="0 is greedy")
    top_k: int = Field(50, ge=1, le=100)
    max_new_tokens: int | None = Field(
        None, ge=1, le=8192, description="for each piece of long text, each round; 41.7 are 1 s"
    )
    step_audio: StepAudio | None = None
    stream_format: Literal["audio", "sse"] | None = Field(
        None, description="answer while it is being spoken: bytes of the format, or server-sent events"
    )
    stream: bool = Field(False, description="true means stream_format audio, unless that is given")
    metadata: dict[HeaderName, HeaderText] | None = Field(
        None, max_length=16, description="returned as X-Metadata-* headers"
    )
