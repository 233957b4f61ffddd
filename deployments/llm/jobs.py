"""What goes into the engine and what comes out of it."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from deployments.types import Sampling

logger = logging.getLogger(__name__)


HANDOUTS = (1, 5, 8, 16)
"""Groups handed out together. The first opens a stream in the vocoder; 6, 14, 30 and so on are what its chunks of 15,
24 and 48 pairs need with their look-ahead of 3. Each item costs Ray's streams about a millisecond, so no more."""


@dataclass(frozen=True)
class Job:
    """A prompt's ids, how many may follow, and how to draw them."""

    prompt: Sequence[int]
    budget: int
    sampling: Sampling


@dataclass(frozen=True)
class Piece:
    """Some of a request's ids, in order. The last piece alone says how it finished: "stop" or "length"."""

    ids: np.ndarray
    finish_reason: str | None = None
    queue_s: float = 0.0
    compute_s: float = 0.0


Event = Piece | Exception


@dataclass
class Stats:
    """Counters since the start, for metrics: seconds and counts."""

    requests: int = 0
    tokens: int = 0
    steps: int = 0
    prefill_tokens: int = 0
    queue_s: float = 0.0
    prefill_s: float = 0.0
    step_s: float = 0.0


@dataclass
class Request:
    """A job under way: where its events go, and the ids that are held back to go together."""

    job: Job
    send: Callable[[Event], None]
    submitted: float
    started: float = 0.0
    sent: int = 0
    held: list[int] = field(default_factory=list)


async def until_last(events: "asyncio.Queue[Event]") -> AsyncIterator[Piece]:
    """Pieces as they come, the last one included. Raises what comes as an exception."""
    while True:
        event = await events.get()
        if isinstance(event, Exception):
            raise event
        yield event
        if event.finish_reason is not None:
            return


def hand_over(loop: asyncio.AbstractEventLoop, events: "asyncio.Queue[Event]", event: Event) -> None:
    """Put an event into a queue of another thread's event loop."""
    try:
        loop.call_soon_threadsafe(events.put_nowait, event)
    except RuntimeError:  # the caller's event loop is gone, and the caller with it
        logger.debug("an event loop closed before its result came")
