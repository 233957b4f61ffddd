"""Is the checkpoint usable? Asked before any stage starts: ``python -m serve_app.preflight configs/serve.yaml``.

Serve retries a failing builder and then waits for ever, so the command line asks first and ends with one message.
"""

import argparse
import logging
import sys
from pathlib import Path

import yaml

from deployments.checkpoint import VARIANT_FOLDERS, Layout, Report
from deployments.encoder.check import check as check_encoder
from deployments.errors import CheckpointError
from deployments.llm.check import check as check_llm
from deployments.vocoder.check import check as check_vocoder
from serve_app.config import VARIANTS, AppArgs, Variant

logger = logging.getLogger("ray.serve")


def check(args: AppArgs) -> list[Variant]:
    """The variants to deploy, once every file and tensor that they and the other stages need was found.

    Raises: CheckpointError with everything that is missing or misshapen, in all stages at once.
    """
    layout = Layout(args.models.absolute())
    variants = _variants(args, layout)
    reports = [check_encoder(layout, args.encoder.options), check_vocoder(layout)]
    reports += [check_llm(layout, variant) for variant in variants]
    if not variants:
        folders = ", ".join(VARIANT_FOLDERS.values())
        reports.append(Report([f"{layout.root}: holds no language model; looked for {folders}"]))
    for report in reports:
        for note in report.notes:
            logger.info("checkpoint: %s", note)
    problems = [problem for report in reports for problem in report.problems]
    if problems:
        raise CheckpointError(problems)
    return variants


def _variants(args: AppArgs, layout: Layout) -> list[Variant]:
    if args.variants is not None:
        return args.variants
    present = set(layout.variants())
    return [variant for variant in VARIANTS if variant in present]


def main() -> int:
    """Check the models folder of the first application in a Serve configuration. 0 if it can be served."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    config = yaml.safe_load(parser.parse_args().config.read_text(encoding="utf-8"))
    args = AppArgs.model_validate(config["applications"][0].get("args", {}))
    try:
        variants = check(args)
    except CheckpointError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{args.models}: {', '.join(variants)} can be served\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
