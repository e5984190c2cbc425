.PHONY: help install train test test-all docs torture benchmark lint format clean
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin

help: ## Show what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

install: ## Make .venv with segframe and the tested versions of what it needs
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11, 4) and "segframe needs Python 3.11 or newer: make install PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	if command -v uv >/dev/null; then uv pip install -q --python $(BIN)/python -c constraints.txt -e '.[dev]'; \
	else $(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'; fi
	touch $(BIN)/installed

$(BIN)/installed: pyproject.toml constraints.txt
	$(MAKE) install

train: $(BIN)/installed ## Train on the embedded dataset: minutes on two CPU cores
	$(BIN)/python train.py experiment=shapes

test: $(BIN)/installed ## Run the tests
	$(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist worksteal

test-all: $(BIN)/installed ## Run the tests, slow ones too
	$(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist worksteal -m ""

torture: $(BIN)/installed ## Run the robustness tests (kills, bad inputs, fuzzing, full disks): twenty minutes; QUICK=1: seven
	$(BIN)/python tests/robustness $(if $(QUICK),quick) $(if $(ONLY),only=$(ONLY)) $(if $(SEED),seed=$(SEED))

benchmark: $(BIN)/installed ## Compare segframe with other projects: half an hour on two CPU cores
	if command -v uv >/dev/null; then uv pip install -q --python $(BIN)/python -c constraints.txt -e '.[benchmark]'; \
	else $(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[benchmark]'; fi
	$(BIN)/python scripts/benchmark

lint: $(BIN)/installed ## Check style, types and the layers of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(BIN)/installed ## Build the documentation: docs/_build/html/index.html
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html

format: $(BIN)/installed ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove the environment and caches; runs in outputs/ stay
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache *.egg-info
