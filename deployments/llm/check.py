"""What is wrong with a language model's folder, found without reading weights."""

from deployments.checkpoint import Layout, Report
from deployments.errors import CheckpointError
from deployments.llm import weights
from deployments.llm.tokenizer import Step1Tokenizer


def check(layout: Layout, variant: str) -> Report:
    """Compare config, tensors and tokenizer of a variant (base, bnb or awq) with what serving needs. Never raises."""
    folder = layout.variant(variant)
    problems: list[str] = []
    notes: list[str] = []
    try:
        problems, extra = weights.compare(folder)
        notes = [f"{folder}: {len(extra)} tensors are not needed: {', '.join(extra[:8])}"] if extra else []
    except CheckpointError as error:
        problems += error.problems
    try:
        Step1Tokenizer(folder)
    except CheckpointError as error:
        problems += error.problems
    return Report(problems, notes)
