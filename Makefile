# make help lists the targets. All targets use one environment, $(VENV). It is rebuilt from scratch
# when pyproject.toml or requirements-dev.txt changes.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
SEED ?= 0
CASES ?= a b teacher cost loop meters options ledger ranks trainers
BIN := $(VENV)/bin

# Two stamps: `make demo` needs only the project; the other targets need the development tools too.
PROJECT := $(VENV)/.project-installed
TOOLS := $(VENV)/.tools-installed

# One thread per test worker: more threads would share the same cores, and results depend on the thread count.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS)

.PHONY: help setup demo test heavy check format-check lint types types-newer tables pages site format bench gpu torture fuzz soak compare report clean
.DEFAULT_GOAL := help

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1: \2/p' $(firstword $(MAKEFILE_LIST))

setup: $(TOOLS) ## create the environment with the project and the development tools

demo: $(PROJECT) ## distil scikit-learn's digits in every mode: runs/demo
	$(BIN)/frugalkd demo --out runs/demo

test: $(TOOLS) ## run the unit tests
	$(PYTEST)

heavy: $(TOOLS) ## run the heavy tests on complete data: many minutes
	$(PYTEST) -m heavy

check: format-check lint types tables test ## run what CI runs: formatter, linter, type checker, generated tables and pages, unit tests

format-check: $(TOOLS)
	$(BIN)/ruff format --check .

lint: $(TOOLS)
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-cache

types: $(TOOLS)
	$(BIN)/pyright --pythonpath $(BIN)/python

types-newer: $(TOOLS) ## check the types of the package as newer versions of Python see them
	for version in 3.12 3.13; do $(BIN)/pyright --pythonpath $(BIN)/python --pythonversion $$version src || exit 1; done

tables: $(PROJECT) ## check that the tables of BENCHMARKS.md match benchmarks/results and that the generated pages match the code
	$(BIN)/python -m benchmarks.write --check
	$(BIN)/python docs/write.py --check

pages: $(PROJECT) ## write the pages of docs/ that are generated from the code
	$(BIN)/python docs/write.py

site: $(TOOLS) ## build the documentation site, which needs no network: site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

format: $(TOOLS) ## format the code and apply the linter's safe fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(TOOLS) ## compare the times of complete trainings, hours: runs/bench (CASES=loop for one case)
	$(BIN)/python -m benchmarks.timing $(CASES) --out runs/bench

gpu: $(TOOLS) ## check the training loop on a GPU, minutes: runs/gpu (says so where there is none)
	@$(BIN)/python -m benchmarks.timing.gpu

torture: $(TOOLS) ## kill 50 runs at random moments and resume them, minutes: runs/torture.json (SEED=0)
	OMP_NUM_THREADS=1 $(BIN)/python tests/torture/torture.py --kills 50 --seed $(SEED) --json runs/torture.json

fuzz: $(TOOLS) ## read 28,800 malformed files, minutes: runs/fuzz keeps the files that caused a failure (SEED=0)
	OMP_NUM_THREADS=1 $(BIN)/python tests/torture/fuzz.py --cases 1800 --seed $(SEED) --keep runs/fuzz \
	  --json runs/fuzz.json

soak: $(TOOLS) ## check 200 short runs in one process for leaks, minutes: runs/soak.json
	OMP_NUM_THREADS=1 $(BIN)/python tests/torture/soak.py --runs 200 --json runs/soak.json

compare: $(PROJECT) ## run a short comparison on Fashion-MNIST: runs/compare
	$(BIN)/frugalkd compare fashion-mnist --arms vanilla,regulated,random,short --seeds 3 --out runs/compare

report: $(PROJECT) ## write a page for each committed comparison: runs/report
	grep -lE '^  "recipe": \{' benchmarks/results/*.json | OMP_NUM_THREADS=1 xargs -P 2 -I{} sh -c \
	  '$(BIN)/frugalkd report {} --data --out runs/report/$$(basename {} .json).html'

clean: ## remove the environment and the caches, and keep runs/
	rm -rf $(VENV) build dist site .pytest_cache .ruff_cache .hypothesis

$(PROJECT): pyproject.toml requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "frugalkd needs Python 3.11 or newer, and '$(PYTHON)' is older or not available: use make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[parquet,report,torchvision]'
	@touch $@

$(TOOLS): $(PROJECT)
	$(BIN)/python -m pip install --quiet --requirement requirements-dev.txt
	@touch $@
