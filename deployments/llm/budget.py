"""How many tokens a request may take, so that none runs away.

Speech takes time in proportion to its text. The rates are those of slow reading with a margin (a Chinese
character in 0.45 s, other writing at 8 characters a second), so that speech at any ordinary pace ends by
itself well before its budget.
"""

import math
import unicodedata

from deployments.errors import InvalidInputError
from deployments.types import GROUP_SECONDS, GROUP_SIZE, ClonePrompt, EditPrompt, Prompt, Sampling

MAX_LENGTH = 8192
"""Prompt and answer together, as published."""
WIDE_SECONDS = 0.45
NARROW_SECONDS = 0.12
MARGIN_SECONDS = 2.0
EDIT_STRETCH = 2.0
"""An edit may slow speech down or add sounds: at most this times its source, and the margin."""


def speech_seconds(text: str) -> float:
    """An upper estimate of how long a text takes to speak: seconds."""
    return sum(WIDE_SECONDS if _is_wide(char) else NARROW_SECONDS for char in text)


def _is_wide(char: str) -> bool:
    """Characters that stand for a syllable or a word: CJK, kana, hangul, digits."""
    return char.isdigit() or unicodedata.east_asian_width(char) in ("W", "F")


def new_tokens(prompt: Prompt, sampling: Sampling, prompt_tokens: int, max_length: int = MAX_LENGTH) -> int:
    """How many tokens may follow the prompt, a whole number of groups unless the request said otherwise.

    Raises:
        InvalidInputError: the prompt leaves no room for a group.
    """
    room = max_length - prompt_tokens
    if room < GROUP_SIZE:
        message = f"the prompt takes {prompt_tokens} of {max_length} tokens, which leaves no room for speech"
        raise InvalidInputError(message, "input", "prompt_too_long")
    if sampling.max_new_tokens is not None:
        return min(room, sampling.max_new_tokens)
    return min(room // GROUP_SIZE, _groups(prompt)) * GROUP_SIZE


def _groups(prompt: Prompt) -> int:
    match prompt:
        case ClonePrompt():
            return math.ceil((speech_seconds(prompt.text) + MARGIN_SECONDS) / GROUP_SECONDS)
        case EditPrompt():
            source = len(prompt.codes) / GROUP_SIZE * GROUP_SECONDS
            return math.ceil((EDIT_STRETCH * source + MARGIN_SECONDS) / GROUP_SECONDS)
