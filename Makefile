# make help     what there is
# make demo     builds the demo experts and shows them at work
# make test     the quick tests
#
# Everything runs in .venv, which is made on first use and renewed when requirements.lock changes.
# VENV=DIR puts it elsewhere; PYTHON=COMMAND says which Python (3.11 or newer) makes it.

PYTHON ?= python3
VENV ?= .venv
ENGINES ?= engines
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready
DEMO := build/demo

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-tensorrt gpu-check lint clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' Makefile | sed 's/:.*##/\t/' | expand -t 16

setup: $(READY) ## only .venv, with everything in requirements.lock

# The lock is copied last: an interrupted installation is not taken for a finished one.
$(READY): requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) --version 2>&1). Give another: make PYTHON=python3.12"; exit 1; }
	@if ! cmp -s requirements.lock $(READY); then \
		$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
			{ echo "$(PYTHON) cannot make virtual environments. On Debian and Ubuntu: apt-get install python3-venv"; exit 1; }; \
		echo "Setting up $(VENV): several minutes and 6 GB the first time (PyTorch brings its CUDA libraries)." && \
		$(PYTHON) -m venv --clear $(VENV) && \
		$(RUN) -m pip install --quiet --disable-pip-version-check --requirement requirements.lock; \
	fi
	@cp requirements.lock $(READY)

demo: $(READY) ## builds and calibrates demo experts, shows them on unseen faces: demo.png
	$(RUN) export/build_engines.py --fp16 --output $(ENGINES)
	$(RUN) -m export.demo draw $(DEMO)
	$(RUN) export/calibrate.py --faces $(DEMO)/labeled/labels.csv --engines $(ENGINES) --output $(ENGINES)
	$(RUN) export/evaluate.py --faces $(DEMO)/unseen/labels.csv --engines $(ENGINES) --fusion $(ENGINES)/fusion.json --json > $(DEMO)/evaluation.json
	$(RUN) -m runtime predict --engines $(ENGINES) --json $(DEMO)/gallery/*.png > $(DEMO)/estimates.jsonl
	$(RUN) -m export.demo show $(DEMO) --output demo.png

# Two processes share two cores better than the threads of one do.
test: $(READY) ## the quick tests
	OMP_NUM_THREADS=1 $(RUN) -m pytest --numprocesses auto --dist loadscope

test-slow: $(READY) ## the slow tests
	$(RUN) -m pytest -m slow

test-tensorrt: $(READY) ## NVIDIA's own parser, builder and CUDA bindings, without a GPU
	$(RUN) -m pytest -m 'tensorrt and not slow'

gpu-check: $(if $(filter $(VENV)/%,$(RUN)),$(READY)) ## everything a GPU has to prove, into one report; RUN=python takes your own environment
	$(RUN) benchmarks/gpu_check.py

lint: $(READY) ## ruff and mypy
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

clean: ## what the demo built; .venv stays
	rm -rf $(ENGINES)/.staging $(ENGINES)/*/ $(ENGINES)/*.json $(ENGINES)/timing.cache build demo.png
