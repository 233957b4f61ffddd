"""From a model folder to an engine that is ready to serve."""

import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from deployments.errors import CheckpointError
from deployments.llm import model, weights
from deployments.llm.engine import Engine
from deployments.llm.runner import Runner, Vocabulary
from deployments.llm.tokenizer import Step1Tokenizer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """How a model is served.

    slots: requests that decode at once. max_length: tokens of prompt and answer. chunk: prompt tokens between two
    steps. max_waiting: requests that may wait for a slot. coalesce_s: how often codes are handed out.
    """

    slots: int
    max_length: int
    chunk: int = 512
    max_waiting: int = 64
    coalesce_s: float = 0.02


def compute_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 on a GPU. float32 on a CPU: few have bfloat16 units, and emulating them is slower and less exact."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def load_weights(folder: Path, device: torch.device, dtype: torch.dtype) -> weights.Weights:
    """A folder's weights, ready to multiply. Raises CheckpointError."""
    loaded = weights.load(folder, device, dtype, weights.place_dense(dtype))
    if torch.equal(loaded.head, loaded.embedding):
        raise CheckpointError([f"{folder}: lm_head equals the embedding; this model's are never tied"])
    return loaded


def make_runner(loaded: weights.Weights, vocabulary: Vocabulary, options: Options) -> Runner:
    """Allocate the cache and put the pieces together, on the device of the weights."""
    device, dtype = loaded.embedding.device, loaded.embedding.dtype
    cache = model.allocate(loaded.config, options.slots, options.max_length, device, dtype)
    ops = model.TorchOps(loaded.config, cache)
    return Runner(model.SlotModel(loaded, ops), cache, vocabulary)


def load_engine(folder: Path, device: torch.device, options: Options) -> tuple[Engine, Step1Tokenizer]:
    """Everything that turns prompts into codes. Raises CheckpointError."""
    tokenizer = Step1Tokenizer(folder)
    loaded = load_weights(folder, device, compute_dtype(device))
    if tokenizer.size > loaded.config.vocab_size:
        raise CheckpointError(
            [f"{folder}: the tokenizer has {tokenizer.size} ids, the model {loaded.config.vocab_size}"]
        )
    runner = make_runner(loaded, Vocabulary(tokenizer.audio, tokenizer.stops), options)
    engine = Engine(
        runner,
        tokenizer.stops,
        chunk=options.chunk,
        max_waiting=options.max_waiting,
        coalesce_s=options.coalesce_s,
        lookahead=1 if device.type == "cuda" else 0,
    )
    logger.info("%s serves %d slots of %d tokens on %s", folder.name, options.slots, options.max_length, device)
    return engine, tokenizer
