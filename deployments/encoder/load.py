"""Putting the encoder together from a checkpoint, as its options say."""

import logging
from collections.abc import Callable
from pathlib import Path

import torch

from deployments.checkpoint import Layout, load_onnx
from deployments.encoder import fingerprint, vq02
from deployments.encoder.blocks import Layers, Runner, make_plan
from deployments.encoder.cache import Cache
from deployments.encoder.campplus_weights import NotCamPlus, load_campplus
from deployments.encoder.encoder import Encoder, Network
from deployments.encoder.frontend import ROW_SIZE
from deployments.encoder.graphs import LayerGraphs
from deployments.encoder.options import EncoderOptions
from deployments.encoder.s3_weights import load_s3
from deployments.encoder.sessions import BlocksSession, S3Session, SessionOptions, SpeakerSession, open_session
from deployments.encoder.store import Store

CACHE_VERSION = 1
FUSED_TOLERANCE = 1e-3  # relative; exact kernels differ by 1e-6, products in TF32 by some 1e-4
logger = logging.getLogger(__name__)


def load(layout: Layout, device: torch.device, options: EncoderOptions | None = None) -> Encoder:
    """The encoder with a checkpoint's weights. Raises CheckpointError."""
    options = options or EncoderOptions()
    set_precision(options.precision)
    s3_device = torch.device(options.s3_device) if options.s3_device else device
    folder, codebook = options.paraformer or layout.paraformer, options.codebook or layout.codebook
    tokens02 = vq02.load(folder, codebook, options.vq02_mode).to(device)
    s3 = _s3(layout.s3, s3_device, options)
    encoder = Encoder(tokens02, s3, _speaker(layout, device, options), device, s3_device)
    lower_precision(encoder, options.precision)
    if options.vq02_graph is not None:
        encoder.vq02.layers = BlocksSession(open_session(options.vq02_graph, _session(options)))
    elif device.type == "cuda" and options.vq02_mode == "blocks":
        encoder.vq02.layers = gpu_layers(Layers(tokens02.encoder), device, options.fused, options.cuda_graphs)
    return encoder


def open_cache(layout: Layout, options: EncoderOptions, observe: Callable[[str], None]) -> Cache:
    """The cache of what this checkpoint gives under these options; ``observe`` is told of its events."""
    store = None
    if options.cache_dir is not None:
        store = Store(options.cache_dir, options.cache_dir_mb * 2**20, observe)
    return Cache(weights_digest(layout, options), options.cache_mb * 2**20, store, observe)


def weights_digest(layout: Layout, options: EncoderOptions) -> str:
    """Digest of all that decides what a clip is encoded to."""
    folder, codebook = options.paraformer or layout.paraformer, options.codebook or layout.codebook
    files = [folder / name for name in ("config.yaml", "model.pt", "am.mvn")]
    files += [codebook, layout.s3, layout.cosyvoice / "campplus.onnx"]
    return fingerprint.of_files(files, f"{CACHE_VERSION}/{options.precision}")


def set_precision(precision: str) -> None:
    """Set how this process multiplies float32 matrices on a GPU; torch's own default rounds convolutions to TF32."""
    exactness = "tf32" if precision == "tf32" else "ieee"
    torch.backends.cuda.matmul.fp32_precision = exactness
    torch.backends.cudnn.conv.fp32_precision = exactness  # type: ignore[attr-defined]


def lower_precision(encoder: Encoder, precision: str) -> None:
    """Give VQ02's layers and VQ06's blocks weights in bfloat16 where that is asked for."""
    if precision == "bf16":
        encoder.vq02.encoder.encoders0.bfloat16()
        encoder.vq02.encoder.encoders.bfloat16()
        if isinstance(encoder.s3, torch.nn.Module):
            encoder.s3.blocks.bfloat16()  # type: ignore[operator, union-attr]


def gpu_layers(plain: Layers, device: torch.device, fused: bool, graphs: bool) -> Runner:
    """VQ02's layers as a GPU runs them fastest: one kernel for what is not a matrix product, recorded as graphs."""
    layers = (_fused(plain, device) or plain) if fused else plain
    return LayerGraphs(layers, device) if graphs else layers


@torch.inference_mode()
def _fused(plain: Layers, device: torch.device) -> Runner | None:
    """The fused layers, if they compile here and give what the plain ones give."""
    try:
        from deployments.encoder.kernels import FusedLayers

        fused = FusedLayers(plain.encoder)
        plan = make_plan([7, 30]).to(device)
        x = torch.randn(*plan.inputs.shape, ROW_SIZE, generator=torch.Generator().manual_seed(0)).to(device)
        outputs = [run(x, plan.valid, plan.window, plan.seen).flatten(0, 1)[plan.outputs] for run in (plain, fused)]
    except Exception as error:  # of triton's compiler, which has many; the plain layers always work
        logger.warning("VQ02's fused kernel does not run here, the plain layers do: %s", error)
        return None
    difference = float((outputs[1] - outputs[0]).abs().max() / outputs[0].abs().max())
    exact = plain.encoder.encoders0[0].self_attn.linear_out.weight.dtype == torch.float32
    if difference > (FUSED_TOLERANCE if exact else 0.1):
        logger.warning("VQ02's fused kernel differs by %.2g, the plain layers are used", difference)
        return None
    return fused


def _s3(path: Path, device: torch.device, options: EncoderOptions) -> Network:
    if options.s3_backend == "onnx":
        return S3Session(open_session(path, _session(options)))
    return load_s3(path).to(device)


def _speaker(layout: Layout, device: torch.device, options: EncoderOptions) -> Network:
    path = layout.cosyvoice / "campplus.onnx"
    session = open_session(path, _session(options))
    backend = options.speaker_backend
    if backend == "onnx" or (backend == "auto" and device.type == "cpu"):
        return SpeakerSession(session)
    try:
        return load_campplus(load_onnx(path), session).to(device)
    except NotCamPlus as reason:
        logger.warning("%s is not CAM++, it stays with ONNX Runtime: %s", path, reason)
        return SpeakerSession(session)


def _session(options: EncoderOptions) -> SessionOptions:
    threads = torch.get_num_threads() if options.onnx_threads is None else options.onnx_threads
    return SessionOptions(options.onnx_providers, threads, options.onnx_parallel)
