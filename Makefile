# make demo and make test do all the set-up on a fresh machine: an environment in .venv, the pinned packages, the job.
# Another Python: make demo PYTHON=python3.12.  On a machine whose pip finds no torch 2.13.0, see docs/install.md.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

export OMP_WAIT_POLICY := passive
export GOMP_SPINCOUNT := 0
export TOKENIZERS_PARALLELISM := false

.PHONY: demo test fmt lint type unit clean

demo: $(VENV)/installed
	$(BIN)/memfold demo

test: lint type unit

fmt: $(VENV)/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: $(VENV)/installed-dev
	$(BIN)/mypy

unit: export HF_HUB_OFFLINE := 1
unit: export OMP_NUM_THREADS := 1
unit: $(VENV)/installed-dev
	$(BIN)/pytest --numprocesses 2

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis

# torch first, by its pin; which build that is, for CUDA or for a CPU alone, the package index decides (docs/install.md)
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "memfold needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch==2.13.0
	$(PIP) --editable .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(PIP) --editable '.[dev]'
	touch $@
