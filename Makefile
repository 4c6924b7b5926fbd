# `make run` runs the main job on the embedded digits; `make test` runs everything that CI runs. Both set up their own virtual environment.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

.PHONY: run test lint slow cluster
run: $(VENV)/ready
	$(BIN)/python -m sweeper run ablations

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

slow: $(VENV)/ready  # what takes minutes and is left out of `make test`
	$(BIN)/python -m pytest -m "slow and not cluster"

cluster: $(VENV)/ready  # as root, on Linux
	$(BIN)/python -m pytest tests/cluster -m cluster
