"""Times of a stage, or of whole requests: ``python -m scripts.bench {encoder,llm,vocoder,e2e} --preset tiny``.

Each stage has its module in scripts/benchmarks: ``add_arguments(parser)`` and ``run(arguments)``, which prints a table
and returns its figures. With ``--json`` they are the last line, as one object.
"""

import argparse
import importlib
import json
import sys

STAGES = ("encoder", "llm", "vocoder", "e2e")
PRESETS = ("tiny", "demo", "full")


def main(argv: list[str]) -> None:
    """Run one stage's benchmark."""
    parser = argparse.ArgumentParser(prog="scripts.bench", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("stage", choices=STAGES)
    stage = next((word for word in argv if word in STAGES), None)
    if stage is None:
        parser.parse_args(argv)
        return
    benchmark = importlib.import_module(f"scripts.benchmarks.{stage}")
    parser.add_argument("--preset", choices=PRESETS, default="tiny", help="sizes of the random weights")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--json", action="store_true", help="print every figure as one object in the last line")
    benchmark.add_arguments(parser)
    arguments = parser.parse_args(argv)
    figures = benchmark.run(arguments)
    if arguments.json:
        print(json.dumps({"stage": stage, "preset": arguments.preset, "device": arguments.device} | figures))


if __name__ == "__main__":
    main(sys.argv[1:])
