"""One module per stage for scripts/bench.py."""
