"""The texts the published weights were trained with: prompt templates, edit options and edit instructions.

prompts.json is the model's interface, character for character. Only the standard library is used here, so
that the application can import it without torch.
"""

import json
from functools import cache
from importlib.resources import files
from typing import Any

from deployments.errors import InvalidInputError

_TAKES_OPTION = ("emotion", "style", "speed")


@cache
def _prompts() -> dict[str, Any]:
    return json.loads(files("deployments.llm").joinpath("prompts.json").read_text(encoding="utf-8"))


def edit_types() -> dict[str, list[str]]:
    """Edit modes, each with the options (or tags) the model knows; empty where a mode takes none."""
    return {mode: list(options) for mode, options in _prompts()["edit_types"].items()}


def edit_instruction(mode: str, edit_info: str | None, audio_text: str | None, text: str | None = None) -> str:
    """The instruction line of an edit.

    Args:
        mode: a key of ``edit_types()``.
        edit_info: the option, with an adverb before it or not; needed by emotion, style and speed.
        audio_text: transcript of the audio; white space around it is dropped.
        text: the new text with tags; needed by paralinguistic.

    Raises:
        InvalidInputError: unknown mode, or what the mode needs is missing.
    """
    if mode not in _prompts()["edit_types"]:
        raise InvalidInputError(f"unknown edit mode {mode!r}", "step_audio.mode", "unknown_mode")
    if mode in _TAKES_OPTION and not edit_info:
        raise InvalidInputError(f"{mode} needs edit_info", "step_audio.edit_info", "missing_edit_info")
    if mode == "paralinguistic" and not text:
        raise InvalidInputError("paralinguistic needs the new text", "input", "missing_input")
    template = _prompts()["instructions"][_template(mode, edit_info)]
    return template.format(edit_info=edit_info, audio_text=(audio_text or "").strip(), text=text)


def _template(mode: str, edit_info: str | None) -> str:
    if mode == "style":
        return "style remove" if edit_info == "remove" else "style"
    if mode in ("emotion", "speed"):
        return "emotion remove" if edit_info == "remove" else "emotion, speed"
    return mode


def clone_system(speaker: str, transcript: str, audio_tokens: str) -> str:
    """The system text of a clone: whose voice, what it says, and its audio tokens as text."""
    template: str = _prompts()["clone_system"]
    return template.format(speaker=speaker, prompt_text=transcript, prompt_wav_tokens=audio_tokens)


def edit_system() -> str:
    """The system text of every edit."""
    system: str = _prompts()["edit_system"]
    return system
