# `make demo` and `make test` do all set-up themselves; a second call finds the environment ready.
PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= dev,bench,dicom,nrrd,onnx,serve
PIP_ARGS ?=
# A file's tests share fixtures: they stay in one process. The longest files begin (tests/conftest.py).
PYTEST_ARGS ?= -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
CONTAINER ?= docker
BIN = $(VENV)/bin
# Modules are compiled once, at the end of setting up and on every core: pip would do it one by one.
PIP = $(BIN)/python -m pip install -q --no-compile $(PIP_ARGS) -c constraints.txt
READY = $(VENV)/.ctune-ready

.DEFAULT_GOAL = help
.PHONY: help setup demo test scale-test scale-bench check format bench bench-reference docs constraints image image-test clean

help:  ## Show what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

setup: $(READY)  ## Make the environment in .venv

# torch goes first and alone: its pinned build then satisfies every later requirement, so that none of them pulls another.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "expected Python 3.11 or newer, got %s; set PYTHON=" % sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) -e '.[$(EXTRAS)]'
	$(BIN)/python -m compileall -qq -j 0 -x '/(tests?|torch/testing/_internal)/' $(VENV)/lib ctune cli registry || true
	@touch $@

demo: $(READY)  ## Run the whole loop on phantoms, with a report to look at
	$(BIN)/ctune demo

test: $(READY)  ## Run the tests
	$(BIN)/python -m pytest $(PYTEST_ARGS)

scale-test: $(READY)  ## Run a pool on a real Ray cluster in network namespaces (root, iproute2, PostgreSQL)
	$(PIP) -e '.[$(EXTRAS),scale-test]'
	CTUNE_SCALE=1 $(BIN)/python -m pytest tests/test_executors.py tests/test_shared_pool.py tests/test_registry_postgres.py tests/test_recipes.py tests/test_scale.py tests/test_scale_train.py tests/test_scale_strangers.py

scale-bench: $(READY)  ## Measure what handing out cases costs, on such a cluster of two workers of four cores
	$(PIP) -e '.[$(EXTRAS),scale-test]'
	$(BIN)/python tests/small_cluster.py 4 $(BIN)/ctune bench executors --preset cpu --seeds 0

check: $(READY)  ## Lint, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)  ## Put every file into the house format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)  ## Run the benchmarks
	$(BIN)/python -m pytest benchmarks --benchmark-only --benchmark-columns=min,median,rounds

bench-reference: $(READY)  ## Write benchmarks/reference.json, which gates are held to, from this machine
	$(BIN)/python -m pytest benchmarks --benchmark-only --write-reference

docs: $(READY)  ## Write docs/cli.md from the command line, docs/benchmarks.md from the results
	$(BIN)/python scripts/generate_cli_docs.py
	$(BIN)/ctune bench report

constraints:  ## Write constraints.txt anew from a clean environment
	PYTHON=$(PYTHON) scripts/write_constraints.sh

image:  ## Build the container image with docker (or CONTAINER=podman)
	$(CONTAINER) build -t ctune .

image-test:  ## Build the image from nothing with debootstrap and buildah, and run it
	scripts/build_image.sh

clean:  ## Remove the environment and caches
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
