"""The language model as a Ray Serve deployment: one class, one deployment per variant."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import numpy as np
from ray import serve

from deployments import device as share
from deployments.checkpoint import Layout
from deployments.errors import InvalidInputError, StageError
from deployments.llm import budget
from deployments.llm.jobs import HANDOUTS, Job, Piece
from deployments.llm.loading import Options, load_engine
from deployments.llm.metrics import EngineMetrics
from deployments.llm.sampling import MAX_TOP_K
from deployments.types import AUDIO_CODES, GROUP_SIZE, ClonePrompt, Generation, Prompt, Sampling


@serve.deployment
class LLM:
    """Audio codes from prompts, for one variant of the model.

    Args:
        models: the models folder. variant: base, bnb or awq.
        device, num_gpus, num_cpus: this replica's share of the machine.
        slots: requests that decode at once; None takes what memory allows, 8 on a CPU.
        max_length: tokens of a prompt and its answer.
        max_waiting: requests that may wait for a slot; more are refused.
        handouts: groups of a stream's codes that are handed out together, the last number repeating.
        deterministic: on a GPU, the same seed gives the same codes in any company; always so on a CPU.
    """

    def __init__(
        self,
        models: str,
        variant: str,
        device: str,
        num_gpus: float,
        num_cpus: float,
        slots: int | None = None,
        max_length: int = budget.MAX_LENGTH,
        max_waiting: int = 64,
        handouts: tuple[int, ...] = HANDOUTS,
        deterministic: bool = False,
    ) -> None:
        where = share.claim(device, num_gpus, num_cpus)
        options = Options(
            slots,
            max_length,
            max_waiting=max_waiting,
            handouts=tuple(handouts),
            memory_fraction=min(num_gpus, 1.0) or 1.0,
            deterministic=deterministic,
        )
        self._max_length = max_length
        folder = Layout(Path(models)).variant(variant)
        self._engine, self._tokenizer = load_engine(folder, where, options, EngineMetrics())
        self._warm_up()

    async def check_health(self) -> None:
        """Raises StageError once the engine cannot go on."""
        self._engine.check()

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Generation:
        """The whole answer to a prompt. Raises InvalidInputError, OverloadedError, StageError."""
        job = self._job(prompt, sampling)
        return self._gather(job, [piece async for piece in self._engine.generate(job)])

    def _gather(self, job: Job, pieces: list[Piece]) -> Generation:
        codes = self._codes(np.concatenate([piece.ids for piece in pieces]))
        last = pieces[-1]
        assert last.finish_reason is not None
        return Generation(codes, last.finish_reason, len(job.prompt), last.queue_s, last.compute_s)

    async def stream(self, prompt: Prompt, sampling: Sampling) -> AsyncIterator[np.ndarray | Generation]:
        """Whole groups of codes int32 (5 n,) as they come: the first at once, later ones together.

        The last item is a Generation without codes: how it ended and what it took.
        """
        job = self._job(prompt, sampling)
        async with aclosing(self._engine.generate(job)) as pieces:
            async for piece in pieces:
                whole = piece.ids[: len(piece.ids) // GROUP_SIZE * GROUP_SIZE]
                if len(whole):
                    yield self._codes(whole)
        yield self._gather(job, [replace(piece, ids=piece.ids[:0])])

    def _warm_up(self) -> None:
        """Answer a small prompt and look at the answer's form. Raises StageError if it is not audio."""
        prompt = ClonePrompt("你好", "hello", np.arange(GROUP_SIZE, dtype=np.int32), "clone_0000000000000000")
        job = self._job(prompt, Sampling(seed=0, max_new_tokens=3 * GROUP_SIZE))
        codes = self._gather(job, self._engine.complete(job)).codes
        if not len(codes) or len(codes) % GROUP_SIZE:
            raise StageError(f"a trial generation gave {len(codes)} codes, not whole groups")

    def _job(self, prompt: Prompt, sampling: Sampling) -> Job:
        if not 0 <= sampling.top_k <= MAX_TOP_K:
            raise InvalidInputError(f"top_k must lie in 0..{MAX_TOP_K}", "top_k")
        ids = self._tokenizer.encode_prompt(prompt)
        return Job(ids, budget.new_tokens(prompt, sampling, len(ids), self._max_length), sampling)

    def _codes(self, ids: np.ndarray) -> np.ndarray:
        codes = ids - self._tokenizer.audio
        if len(codes) and not 0 <= codes.min() <= codes.max() < AUDIO_CODES:
            raise StageError("the language model left the audio codes")
        return codes
