"""Networks run by ONNX Runtime: the speaker network, and the S3 tokenizer where its graph is preferred."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from deployments.errors import CheckpointError


@dataclass(frozen=True)
class SessionOptions:
    """How ONNX Runtime runs a graph.

    providers: in order of preference; empty means the CPU. threads: within an operator; 0 lets it take all cores.
    parallel: run independent operators at the same time, on as many threads.
    """

    providers: tuple[str, ...] = field(default_factory=tuple)
    threads: int = 1
    parallel: bool = False


def open_session(path: Path, options: SessionOptions) -> onnxruntime.InferenceSession:
    """A session on a graph. Raises CheckpointError if the graph or a provider cannot be used."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options.threads
    settings.log_severity_level = 3
    if options.parallel:
        settings.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
        settings.inter_op_num_threads = options.threads
    providers: list[Any] = list(options.providers) or ["CPUExecutionProvider"]
    missing = sorted(set(providers) - set(onnxruntime.get_available_providers()))
    if missing:
        raise CheckpointError([f"{path}: ONNX Runtime has no {', '.join(missing)} here"])
    try:
        return onnxruntime.InferenceSession(str(path), settings, providers=providers)
    except Exception as error:  # its exceptions share no base but this
        raise CheckpointError([f"{path}: ONNX Runtime cannot load it: {str(error).splitlines()[0][:300]}"]) from error


class S3Session:
    """The S3 graph through ONNX Runtime, one clip after another: it takes no batches."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self.session = session
        self.names = [item.name for item in self.session.get_inputs()]

    def __call__(self, mels: list[Tensor]) -> list[Tensor]:
        """Log-mels (128, frames) -> codes (n,) int64 each."""
        return [self._one(mel) for mel in mels]

    def _one(self, mel: Tensor) -> Tensor:
        inputs = {self.names[0]: mel[None].cpu().numpy(), self.names[1]: np.array([mel.shape[1]], dtype=np.int32)}
        return torch.from_numpy(self.session.run(None, inputs)[0].reshape(-1))


class SpeakerSession:
    """The speaker graph through ONNX Runtime, one clip after another: its mean over time leaves no room for padding."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self.session = session
        self.name = self.session.get_inputs()[0].name

    def __call__(self, fbanks: list[Tensor]) -> list[Tensor]:
        """Filter banks (frames, 80) without their mean -> speaker vectors (192,) each."""
        return [self._one(fbank) for fbank in fbanks]

    def _one(self, fbank: Tensor) -> Tensor:
        return torch.from_numpy(self.session.run(None, {self.name: fbank[None].cpu().numpy()})[0].reshape(-1))


class BlocksSession:
    """VQ02's layers through ONNX Runtime, on a graph that scripts/export_vq02.py wrote."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self.session = session

    def __call__(self, x: Tensor, valid: Tensor, window: Tensor, seen: Tensor) -> Tensor:
        """Called like ``blocks.Layers``: (blocks, 9, 560) -> (blocks, 9, size)."""
        inputs = {"x": x, "valid": valid, "window": window, "seen": seen}
        output = self.session.run(None, {name: tensor.cpu().numpy() for name, tensor in inputs.items()})[0]
        return torch.from_numpy(output).to(x.device)
