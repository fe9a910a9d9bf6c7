# make help     list the targets
# make demo     build the demo experts and estimate ages with them
# make test     run the quick tests
#
# Everything runs in .venv, which is created on first use and again when requirements.lock changes.
# VENV=DIR chooses another folder; PYTHON=COMMAND chooses the Python (3.11 or newer) that creates it.

PYTHON ?= python3
VENV ?= .venv
ENGINES ?= engines
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready
DEMO := build/demo

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-tensorrt gpu-check lint clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' Makefile | sed 's/:.*##/\t/' | expand -t 16

setup: $(READY) ## create .venv with everything in requirements.lock

# The lock is copied last, so that an interrupted installation does not pass for a finished one.
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

demo: $(READY) ## build and calibrate demo experts, estimate unseen faces: demo.png
	$(RUN) export/build_engines.py --fp16 --output $(ENGINES)
	$(RUN) -m export.demo draw $(DEMO)
	$(RUN) export/calibrate.py --faces $(DEMO)/labeled/labels.csv --whole --engines $(ENGINES) --output $(ENGINES) --cache $(DEMO)/calibration
	$(RUN) export/evaluate.py --faces $(DEMO)/unseen/labels.csv --whole --engines $(ENGINES) --fusion $(ENGINES)/fusion.json --cache $(DEMO)/calibration --json > $(DEMO)/evaluation.json
	$(RUN) -m runtime predict --engines $(ENGINES) --json $(DEMO)/gallery/*.png > $(DEMO)/estimates.jsonl
	$(RUN) -m export.demo show $(DEMO) --output demo.png

# Two processes use two cores better than the threads of one.
test: $(READY) ## the quick tests
	OMP_NUM_THREADS=1 $(RUN) -m pytest --numprocesses auto --dist loadscope

test-slow: $(READY) ## the slow tests
	$(RUN) -m pytest -m slow

test-tensorrt: $(READY) ## NVIDIA's own parser, builder and CUDA bindings, without a GPU
	$(RUN) -m pytest -m 'tensorrt and not slow'

gpu-check: $(if $(filter $(VENV)/%,$(RUN)),$(READY)) ## every check that needs a GPU, in one report; RUN=python uses your own environment
	$(RUN) benchmarks/gpu_check.py

lint: $(READY) ## ruff and mypy
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

clean: ## remove what the demo built; keep .venv
	rm -rf $(ENGINES)/.staging $(ENGINES)/*/ $(ENGINES)/*.json $(ENGINES)/timing.cache build demo.png
