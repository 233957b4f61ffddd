"""From a model folder to an engine that is ready to serve."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from deployments.errors import CheckpointError, StageError
from deployments.llm import model, weights
from deployments.llm.engine import Engine
from deployments.llm.jobs import HANDOUTS
from deployments.llm.kernels.fusion import Ways
from deployments.llm.runner import Runner, Vocabulary
from deployments.llm.step1 import Step1Config
from deployments.llm.tokenizer import Step1Tokenizer

logger = logging.getLogger(__name__)


MAX_SLOTS = 32
CPU_SLOTS = 8
RESERVE_BYTES = 3 << 29
"""Kept free on a GPU for graphs, activations and an expanded matrix."""


@dataclass(frozen=True)
class Options:
    """How a model is served.

    slots: requests that decode at once; None takes what memory allows. max_length: tokens of prompt and answer.
    chunk: prompt tokens between two steps. max_waiting: requests that may wait for a slot. handouts: groups of
    codes that are handed out together. memory_fraction: share of the GPU. deterministic: on a GPU, the same seed
    gives the same codes in any company, at the cost of always running every slot (a CPU always does). ways:
    how a GPU's kernels work together.
    """

    slots: int | None
    max_length: int
    chunk: int = 512
    max_waiting: int = 64
    handouts: tuple[int, ...] = HANDOUTS
    memory_fraction: float = 1.0
    deterministic: bool = False
    ways: Ways | None = None


def compute_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 on a GPU. float32 on a CPU: few have bfloat16 units, and emulating them is slower and less exact."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def load_weights(folder: Path, device: torch.device, dtype: torch.dtype) -> weights.Weights:
    """A folder's weights, ready to multiply. Raises CheckpointError."""
    loaded = weights.load(folder, device, dtype, place_for(device, dtype))
    if torch.equal(loaded.head, loaded.embedding):
        raise CheckpointError([f"{folder}: lm_head equals the embedding; this model's are never tied"])
    return loaded


def place_for(device: torch.device, dtype: torch.dtype, ways: Ways | None = None) -> weights.Place:
    if device.type != "cuda":
        return weights.place_dense(dtype)
    from deployments.llm.kernels.fusion import Workspace
    from deployments.llm.kernels.linear import place_on_gpu  # needs triton, which CPUs lack

    return place_on_gpu(Workspace(device, ways))


def make_runner(loaded: weights.Weights, vocabulary: Vocabulary, options: Options) -> Runner:
    """Allocate the cache and put the pieces together, on the device of the weights."""
    device, dtype, config = loaded.embedding.device, loaded.embedding.dtype, loaded.config
    slots = options.slots or free_slots(config, device, dtype, options)
    cache = model.allocate(config, slots, options.max_length, device, dtype)
    if device.type != "cuda":
        return Runner(model.SlotModel(loaded, model.TorchOps(config, cache)), cache, vocabulary)
    from deployments.llm.graphs import GraphRunner
    from deployments.llm.kernels.fusion import Workspace
    from deployments.llm.kernels.ops import GPUOps, supported

    if not supported(config):
        raise CheckpointError([f"heads of {config.head_dim} in groups of {config.num_attention_groups} have no kernel"])
    space = Workspace(device, options.ways)
    slot_model = model.SlotModel(loaded, GPUOps(config, cache, space))
    return GraphRunner(slot_model, cache, vocabulary, space, options.chunk, options.deterministic)


def free_slots(config: Step1Config, device: torch.device, dtype: torch.dtype, options: Options) -> int:
    """How many slots of ``max_length`` fit into this process's share of the GPU."""
    if device.type != "cuda":
        return CPU_SLOTS
    free, total = torch.cuda.mem_get_info(device)
    share = min(free, total * options.memory_fraction - torch.cuda.memory_allocated(device)) - RESERVE_BYTES
    slots = int(share // (model.bytes_per_token(config, dtype) * options.max_length))
    if slots < 1:
        raise StageError(f"{options.memory_fraction:.2f} of the GPU leaves no room for a request beside the weights")
    return min(slots, MAX_SLOTS)


def load_engine(
    folder: Path, device: torch.device, options: Options, observe: Callable[[Engine], None] | None = None
) -> tuple[Engine, Step1Tokenizer]:
    """Everything that turns prompts into codes; ``observe`` as the engine has it. Raises CheckpointError."""
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
        handouts=options.handouts,
        lookahead=1 if device.type == "cuda" else 0,
        observe=observe,
    )
    logger.info("%s serves %d slots of %d tokens on %s", folder.name, runner.slots, options.max_length, device)
    return engine, tokenizer
