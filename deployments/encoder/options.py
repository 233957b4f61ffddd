"""What can be chosen about how the encoder runs. The defaults give the streaming loop's tokens."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Options(BaseModel):
    """Base of both: an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class EncoderOptions(Options):
    """Backends, precision, devices and the cache."""

    vq02_mode: Literal["blocks", "reference"] = Field(
        default="blocks", description="blocks: all 240 ms blocks of all clips together; reference: the streaming loop"
    )
    vq02_graph: Path | None = Field(
        default=None, description="ONNX file of scripts/export_vq02.py: VQ02's layers through ONNX Runtime"
    )
    s3_backend: Literal["torch", "onnx"] = Field(default="torch", description="torch batches; onnx: the file as it is")
    speaker_backend: Literal["auto", "torch", "onnx"] = Field(
        default="auto", description="auto: torch on a GPU, onnx on the CPU, and for a graph that is not CAM++"
    )
    paraformer: Path | None = Field(default=None, description="another FunASR folder for VQ02, e.g. a lighter one")
    codebook: Path | None = Field(default=None, description="the centroids that belong to it")
    precision: Literal["float32", "tf32", "bf16"] = Field(
        default="float32", description="of matrix products; anything but float32 changes tokens"
    )
    cuda_graphs: bool = Field(default=True, description="replay VQ02's layers as CUDA graphs where the batch is small")
    fused: bool = Field(default=True, description="VQ02's attention and memory as one Triton kernel, on a GPU")
    s3_device: str | None = Field(default=None, description="VQ06's device, e.g. cuda:1; default: the encoder's")
    onnx_providers: tuple[str, ...] = Field(
        default=(), description="ONNX Runtime's providers in order of preference, e.g. TensorrtExecutionProvider"
    )
    onnx_threads: int | None = Field(default=None, ge=0, description="ONNX Runtime's; default: torch's; 0: all cores")
    onnx_parallel: bool = Field(default=False, description="ONNX Runtime runs independent operators at the same time")
    cache_mb: int = Field(default=256, ge=0, description="encoded clips kept in memory, MiB; 0: none")
    cache_dir: Path | None = Field(default=None, description="folder of encoded clips, kept and shared by replicas")
    cache_dir_mb: int = Field(default=4096, ge=1, description="size that the folder is kept under, MiB")


class Limits(Options):
    """``user_config``: batch limits that can change without a restart."""

    batch_seconds: int = Field(default=320, ge=1, description="seconds of audio in one batch")
    idle_wait_s: float = Field(default=0.002, ge=0, description="how long an idle replica waits for a second clip")
