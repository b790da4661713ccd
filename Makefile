# make train  everything from nothing: environment, data, the quickstart model
# make test   everything from nothing: environment, data, linters, the test suite

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: train test lint env

train: env
	$(BIN)/python train.py --config configs/quickstart.yaml --resume

# One process a core with one thread each, a file of tests in one process.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=auto --dist=loadfile

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

env: $(VENV)/.installed

# The stamp is younger than pyproject.toml exactly if what it asks for is installed.
$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11, 4) and "Python 3.11.4 or newer is needed; choose one by: make PYTHON=python3.12")'
	@echo "installing into $(VENV): a few minutes, about 7 GB, nothing to see"
	$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11, 4) and "$(VENV) was made with an older Python: remove it")'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@
