# make serve: the application on http://127.0.0.1:8003. make test: the tests. Both set up what they need.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
TINY := checkpoints/tiny
EDITX_MODELS ?= $(TINY)
CONFIG ?= configs/serve.yaml
BENCH ?= e2e
export EDITX_MODELS

.PHONY: serve test lint bench

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

$(TINY)/made: scripts/make_checkpoint.py scripts/quantize.py $(wildcard scripts/checkpoints/*.py) | $(VENV)/installed
	rm -rf $(TINY)
	$(BIN)/python -m scripts.make_checkpoint --preset tiny --variants base,bnb,awq --out $(TINY)
	touch $@

serve: $(VENV)/installed $(if $(filter $(TINY),$(EDITX_MODELS)),$(TINY)/made)
	$(BIN)/python -m serve_app.preflight $(CONFIG)
	@echo "API        http://127.0.0.1:8003/docs"
	@echo "Dashboard  http://127.0.0.1:8265  (sign in with the token that '$(BIN)/ray get-auth-token' prints)"
	$(BIN)/serve run $(CONFIG)

test: $(VENV)/installed
	$(BIN)/python -m pytest

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/installed
	$(BIN)/python -m scripts.bench $(BENCH) --preset tiny --device cpu
