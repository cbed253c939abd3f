# Everything runs in .venv/, which is made on first use and made again when pyproject.toml changes.
#   make demo   restore real photographs, then train and test a small PromptCIR, about four minutes
#   make test   all tests, a file per core at a time
#   make lint   formatting, lint, types
#   make wheel  build the wheel and run it from another directory in an environment of its own
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
	@echo "Making the environment $(VENV): torch and BasicSR are large, this takes some minutes ..."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
