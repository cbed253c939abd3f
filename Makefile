# Everything runs in .venv/, which is created on first use and updated when pyproject.toml changes.
#   make demo   restore photographs, then train and test a small PromptCIR (README: how long it takes)
#   make test   run all tests, one file per core at a time
#   make lint   check formatting, lint and types
#   make wheel  build the wheel and try it in a separate environment
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint wheel clean

demo: $(READY)
	$(BIN)/basicsr demo

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

wheel: $(READY)
	$(BIN)/python tests/try_wheel.py

$(READY): pyproject.toml
	@echo "Creating the environment $(VENV): torch and BasicSR are large, this takes some minutes ..."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
