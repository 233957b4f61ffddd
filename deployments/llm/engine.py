"""Continuous batching: requests join and leave between steps of one worker thread.

The thread asks the scheduler what to launch, has the runner launch it, and hands out results. On a GPU it
launches a step before it reads the one before, so the device never waits for the host; a request that has
stopped is noticed one step later, and that step's token is dropped.
"""

import asyncio
import itertools
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence

import numpy as np

from deployments.errors import StageError
from deployments.llm.jobs import HANDOUTS, Event, Job, Piece, Request, Stats, hand_over, until_last
from deployments.llm.runner import Result, Runner
from deployments.llm.scheduler import Finish, Plan, Prefill, Scheduler
from deployments.types import GROUP_SIZE

logger = logging.getLogger(__name__)

OBSERVE_S = 1.0
MAX_FAILED_TURNS = 3
"""So many failed turns in a row and the engine says that it cannot go on."""


class Engine:
    """The worker thread around a scheduler and a runner.

    Args:
        runner: the tensor work.
        stops: ids that end a generation.
        chunk: tokens of a prompt that are prefilled between two steps.
        max_waiting: requests that may wait for a slot before more are refused.
        handouts: groups of codes that are handed out together: the first so many, the next so many; the last repeats.
        lookahead: steps launched ahead of the results: 1 on a GPU, 0 on a CPU, where a launch is the step itself.
        observe: called on the worker thread every OBSERVE_S while there is work, and when there is none left.
    """

    def __init__(
        self,
        runner: Runner,
        stops: Sequence[int],
        chunk: int = 512,
        max_waiting: int = 64,
        handouts: Sequence[int] = HANDOUTS,
        lookahead: int = 0,
        observe: "Callable[[Engine], None] | None" = None,
    ) -> None:
        self._runner = runner
        self.slots, self.max_length = runner.slots, runner.max_length
        self._observe = observe
        self._observed = 0.0
        self._stops = frozenset(stops)
        self._handouts = tuple(count * GROUP_SIZE for count in handouts)
        self._lookahead = lookahead
        self._scheduler = Scheduler(runner.slots, chunk, max_waiting)
        self._requests: dict[int, Request] = {}
        self._keys = itertools.count()
        self._launched: deque[tuple[tuple[int, ...], Result]] = deque()
        self._wake = threading.Condition()
        self._closed = False
        self._failed_turns = 0
        self.stats = Stats()
        self._thread = threading.Thread(target=self._work, name="llm-engine", daemon=True)
        self._thread.start()

    async def generate(self, job: Job) -> AsyncGenerator[Piece, None]:
        """Pieces of ids as they come. Leaving the iteration frees the slot within a step.

        Raises:
            OverloadedError: the queue is full. StageError: a step failed.
        """
        loop, events = asyncio.get_running_loop(), asyncio.Queue[Event]()
        key = self._submit(job, lambda event: hand_over(loop, events, event))
        try:
            async for piece in until_last(events):
                yield piece
        finally:
            self._cancel(key)

    def complete(self, job: Job) -> list[Piece]:
        """All pieces of a job, waited for without an event loop. Raises as ``generate`` does."""
        events = queue.SimpleQueue[Event]()
        self._submit(job, events.put)
        pieces: list[Piece] = []
        while not pieces or pieces[-1].finish_reason is None:
            event = events.get()
            if isinstance(event, Exception):
                raise event
            pieces.append(event)
        return pieces

    def check(self) -> None:
        """Raise StageError if the engine cannot go on."""
        if not self._thread.is_alive():
            raise StageError("the language model's engine has stopped")
        if self._failed_turns >= MAX_FAILED_TURNS:
            raise StageError(f"the language model failed {self._failed_turns} times in a row")

    @property
    def load(self) -> tuple[int, int, int]:
        """Slots in use, requests waiting, cache positions in use."""
        with self._wake:
            return self._scheduler.occupied, self._scheduler.waiting, self._scheduler.tokens

    def close(self) -> None:
        """Stop the thread; requests under way fail."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join()

    def _submit(self, job: Job, send: Callable[[Event], None]) -> int:
        assert len(job.prompt) + job.budget <= self._runner.max_length
        with self._wake:
            if self._closed:
                raise StageError("the language model is shutting down")
            key = next(self._keys)
            self._scheduler.add(key, len(job.prompt), job.budget)
            self._requests[key] = Request(job, send, time.perf_counter())
            self._wake.notify()
        return key

    def _cancel(self, key: int) -> None:
        with self._wake:
            self._scheduler.remove(key)
            self._requests.pop(key, None)

    def _work(self) -> None:
        while (plan := self._next_plan()) is not None:
            try:
                self._turn(plan)
            except Exception as error:
                logger.exception("a step of the language model failed")
                self._failed_turns += 1
                self._fail(error)
            self._watch()
        self._fail(StageError("the language model is shutting down"))

    def _next_plan(self) -> Plan | None:
        """What to do now; an empty plan if only results are outstanding, None to stop."""
        with self._wake:
            while not self._closed:
                plan = self._scheduler.plan()
                if plan or self._launched:
                    return plan
                self._wake.wait()
        return None

    def _watch(self) -> None:
        now = time.perf_counter()
        if self._observe is not None and (now - self._observed >= OBSERVE_S or not any(self.load)):
            self._observed = now
            self._observe(self)

    def _turn(self, plan: Plan) -> None:
        if plan.prefill is not None:
            self._prefill(plan.prefill)
        began = time.perf_counter()
        if plan.decode:
            keys, slots = zip(*plan.decode, strict=True)
            self._launched.append((keys, self._runner.decode(slots)))
            self.stats.steps += 1
        keep = self._lookahead if plan.decode else 0
        while len(self._launched) > keep:
            keys, result = self._launched.popleft()
            self._deliver(keys, result.tokens())
            self._failed_turns = 0
        self.stats.step_s += time.perf_counter() - began

    def _prefill(self, chunk: Prefill) -> None:
        with self._wake:
            request = self._requests.get(chunk.key)
        if request is None:  # cancelled since it was planned
            return
        began = time.perf_counter()
        try:
            if chunk.first:
                request.started = began
                self._runner.begin(chunk.slot, request.job.sampling, request.job.prompt)
            self._runner.prefill(chunk.slot, request.job.prompt[chunk.start : chunk.end], chunk.start)
            if chunk.last:
                self._launched.append(((chunk.key,), self._runner.first(chunk.slot)))
        except Exception as error:
            logger.exception("a prompt failed")
            self._failed_turns += 1
            self._end(chunk.key, StageError(f"the language model failed on a prompt: {type(error).__name__}"))
        self.stats.prefill_tokens += chunk.end - chunk.start
        self.stats.prefill_s += time.perf_counter() - began

    def _deliver(self, keys: Sequence[int], tokens: Sequence[int]) -> None:
        now = time.perf_counter()
        for key, token in zip(keys, tokens, strict=True):
            with self._wake:
                request = self._requests.get(key)
                if request is None or key not in self._scheduler:  # ended or cancelled while this was under way
                    continue
                finish = self._scheduler.accept(key, token in self._stops)
            self.stats.tokens += 1
            if finish is not Finish.STOP:
                request.held.append(token)
            if finish is not None:
                self._finish(key, request, finish, now)
            elif len(request.held) == self._handouts[min(request.sent, len(self._handouts) - 1)]:
                request.send(Piece(np.array(request.held, dtype=np.int32)))
                request.held = []
                request.sent += 1

    def _finish(self, key: int, request: Request, finish: Finish, now: float) -> None:
        queue_s, compute_s = request.started - request.submitted, now - request.started
        self.stats.requests += 1
        self.stats.queue_s += queue_s
        ids = np.array(request.held, dtype=np.int32)
        self._end(key, Piece(ids, finish.name.lower(), queue_s, compute_s))

    def _fail(self, error: Exception) -> None:
        """Every request that has a slot fails; those that wait stay, unless the engine closes."""
        self._launched.clear()
        with self._wake:
            keys = list(self._requests) if self._closed else self._scheduler.clear()
        stage = error if isinstance(error, StageError) else StageError(f"a step failed: {type(error).__name__}")
        for key in keys:
            self._end(key, stage)

    def _end(self, key: int, event: Piece | Exception) -> None:
        with self._wake:
            self._scheduler.remove(key)
            request = self._requests.pop(key, None)
        if request is not None:
            request.send(event)
