# Pellucid's front door. `make help` says what is here; nothing below needs more than make and Python 3.11 or newer.
SHELL := /bin/sh
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV_PYTHON := .venv/bin/python
JOBS ?= 2
TESTS ?= tests

# Taken literally ($ and quotes included) and handed on in the environment, so that no shell reads them.
override PROMPT := $(value PROMPT)
override MODEL := $(value MODEL)
override DATA := $(value DATA)
override NANOGPT := $(value NANOGPT)
override LITGPT := $(value LITGPT)
export PROMPT MODEL DATA NANOGPT LITGPT

SET_UP := command -v "$(PYTHON)" >/dev/null || { \
	echo "No $(PYTHON) here. Install Python 3.11 or newer (https://www.python.org/downloads/), or: make demo PYTHON=/path/to/python3" >&2; \
	exit 1; }; "$(PYTHON)" dev/setup_env.py

# A worker a core; each keeps to one thread, so that timings and sums do not depend on its neighbours.
PYTEST := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 RAYON_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false \
	$(VENV_PYTHON) -m pytest -n $(JOBS) --dist loadfile -rs

.PHONY: help setup setup-dev setup-long demo train-demo test test-all check format bench bench-train bench-peers lock clean

help: ## what can be made (this list)
	@echo "Pellucid. make …"
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' $(MAKEFILE_LIST) | awk -F '	' '{ printf "  %-12s %s\n", $$1, $$2 }'
	@echo 'Another Python: make demo PYTHON=/path/to/python3. One file of tests:'
	@echo 'make test TESTS=tests/test_x.py'

setup: ## .venv with what Pellucid needs; quick when there is nothing to do
	@$(SET_UP)

setup-dev: ## the same, and what tests and checks need
	@$(SET_UP) --dev

setup-long: ## the same, and what the long tests need
	@$(SET_UP) --long

demo: setup ## an answer in this terminal: make demo [PROMPT="…"] [MODEL=path]
	@$(VENV_PYTHON) -m pellucid.cli.demo

train-demo: setup ## a small model learns a text, and writes some: [DATA=file]
	@$(VENV_PYTHON) -m pellucid.cli.train_demo

test: setup-dev ## all tests but the long ones, within 15 minutes
	-@$(VENV_PYTHON) -m pellucid pull smollm2 --quiet
	@$(PYTEST) -m "not slow" $(TESTS)

test-all: setup-long ## the long ones, too
	-@$(VENV_PYTHON) -m pellucid pull smollm2 --quiet
	@$(PYTEST) $(TESTS)

check: setup-dev ## format, lint, types
	@$(VENV_PYTHON) -m ruff format --check .
	@$(VENV_PYTHON) -m ruff check .
	@$(VENV_PYTHON) -m pyright

format: setup-dev ## put the code into its format
	@$(VENV_PYTHON) -m ruff format .
	@$(VENV_PYTHON) -m ruff check --fix .

bench: setup-dev ## measure beside transformers and llama.cpp; keeps a record
	@$(VENV_PYTHON) bench/side_by_side.py --record
	@$(VENV_PYTHON) bench/native.py --record

bench-train: setup-dev ## training beside nanoGPT, transformers, litgpt: NANOGPT=checkout
	@$(VENV_PYTHON) bench/pretrain.py --record $(if $(NANOGPT),--nanogpt "$$NANOGPT") $(if $(LITGPT),--litgpt "$$LITGPT")

bench-peers: setup ## build llama.cpp for `make bench`: some minutes
	@$(VENV_PYTHON) -m venv .venv-llamacpp
	@CMAKE_ARGS=-DGGML_NATIVE=ON .venv-llamacpp/bin/python -m pip install --no-binary llama-cpp-python llama-cpp-python==0.3.36

lock: setup-dev ## resolve pyproject.toml into requirements/*.lock anew
	@$(VENV_PYTHON) dev/lock.py

clean: ## remove .venv and caches; models stay where they are
	rm -rf .venv .venv-llamacpp .pytest_cache .ruff_cache .hypothesis build dist
