"""Write a checkpoint with seeded random weights in the published layout.

    python scripts/make_checkpoint.py --preset tiny --out checkpoints/tiny

``tiny`` is what the application serves without published weights: everything is real but the training. ``full``
has the published sizes, for measuring speed and memory; on a GPU's host ``--device cuda`` draws the numbers there.
The same seed, sizes and device write the same tensors.
"""

import argparse
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

if __name__ == "__main__":  # run as a file: the repository's root is not on the path yet
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from deployments.checkpoint import VARIANT_FOLDERS, Layout
from scripts.checkpoints import cosyvoice, paraformer, s3, step1
from scripts.checkpoints.presets import PRESETS, Preset

logger = logging.getLogger(__name__)


def make(
    preset: Preset, out: Path, seed: int = 0, variants: tuple[str, ...] = ("base",), device: str = "cpu"
) -> Layout:
    """Write the checkpoint's files under ``out`` and return its layout.

    The quantised variants are made from the base folder, which is removed again if it was not asked for.
    """
    layout = Layout(out)
    base = layout.variant("base")
    with _timed("VQ02"):
        paraformer.write(layout, preset.paraformer, seed, device)
    with _timed("VQ06"):
        s3.write(layout, preset.s3, seed, device)
    with _timed("language model"):
        step1.write(base, preset.step1, seed, device)
    with _timed("vocoder"):
        cosyvoice.write(base, preset, seed, device)
    for variant in variants:
        if variant != "base":
            with _timed(f"variant {variant}"):
                _quantize(base, layout.variant(variant), variant, device)
    if "base" not in variants:
        shutil.rmtree(base)
    return layout


def _quantize(base: Path, out: Path, variant: str, device: str) -> None:
    """A variant's folder: the quantised language model, and the base folder's vocoder as links where possible."""
    from scripts import quantize  # bitsandbytes and compressed-tensors take seconds to import

    if variant == "bnb":
        quantize.write_bnb(base, out, device=device)
    else:
        quantize.write_awq(base, out, device=device)
    shutil.rmtree(out / cosyvoice.FOLDER)
    shutil.copytree(base / cosyvoice.FOLDER, out / cosyvoice.FOLDER, copy_function=_link)


def _link(source: str, target: str) -> None:
    """A hard link, or a copy on file systems that have none."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


@contextmanager
def _timed(what: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    logger.info("%s: %.1f s", what, time.perf_counter() - start)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Write a checkpoint with random weights in the published layout.")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="tiny", help="sizes: small, or as published")
    parser.add_argument("--out", type=Path, required=True, help="the models folder to write; it must not exist yet")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other weights")
    parser.add_argument("--variants", default="base,bnb,awq", help="language models to write, comma-separated")
    parser.add_argument("--device", default="cpu", help="where the numbers are drawn: cpu or cuda")
    arguments = parser.parse_args()
    arguments.variants = tuple(arguments.variants.split(","))
    if unknown := set(arguments.variants) - set(VARIANT_FOLDERS):
        parser.error(f"unknown variants: {', '.join(sorted(unknown))}")
    if arguments.out.exists():
        parser.error(f"{arguments.out} exists already")
    return arguments


def main() -> None:
    """Write into a temporary folder beside the target, so that a target that exists is complete."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    arguments = _arguments()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=arguments.out.parent, prefix=f".{arguments.out.name}-") as scratch:
        made = Path(scratch) / "models"
        make(PRESETS[arguments.preset], made, arguments.seed, arguments.variants, arguments.device)
        made.rename(arguments.out)
    logger.info("%s is ready", arguments.out)


if __name__ == "__main__":
    main()
