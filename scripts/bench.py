"""Times of a stage, or of whole requests: ``python -m scripts.bench {encoder,llm,vocoder,e2e} --preset tiny``.

Each stage has its module in scripts/benchmarks, whose ``main(argv)`` takes ``--preset {tiny,demo,full}``, ``--device
{cpu,cuda}`` and ``--json``, which makes the last line one object with every figure.
"""

import argparse
import importlib
import sys

STAGES = ("encoder", "llm", "vocoder", "e2e")


def main(argv: list[str]) -> None:
    """Run one stage's benchmark with the arguments after its name."""
    parser = argparse.ArgumentParser(prog="scripts.bench", description="Times of a stage, or of whole requests.")
    parser.add_argument("stage", choices=STAGES)
    arguments = parser.parse_args(argv[:1])
    importlib.import_module(f"scripts.benchmarks.{arguments.stage}").main(argv[1:])


if __name__ == "__main__":
    main(sys.argv[1:])
