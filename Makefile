# make help     list the targets
# make demo     estimate the ages in real portraits; PHOTO=path adds your own
# make test     run the quick tests
#
# For Linux. Everything runs in .venv, which is created on first use and again when requirements.lock changes.
# VENV=DIR chooses another folder; PYTHON=COMMAND chooses the Python (3.11 or newer) that creates it.

PYTHON ?= python3
VENV ?= .venv
ENGINES ?= engines
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready
LOWEST ?= .venv-lowest
OPENCV5 ?= .venv-opencv5
UV ?= uv
COMPILE := $(UV) pip compile pyproject.toml --universal --python-version 3.11 --fork-strategy fewest \
	--generate-hashes --no-annotate --no-header --quiet
IMAGE := --extra serve
SLIM := --extra cpu --extra serve --extra label --extra openvino --extra test
DEMO := build/demo
DEMO_ENGINES := build/demo-engines

.DEFAULT_GOAL := help
.PHONY: help setup setup-slim lock demo demo-architectures test test-conversion test-lowest test-opencv5 test-slow test-tensorrt test-public gpu-check \
	docs lint clean

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*##' Makefile | sed 's/:.*##/\t/' | expand -t 20

setup: $(READY) ## create .venv with everything in requirements.lock

# environment LOCK,VENV: creates VENV with exactly the files whose hashes are in LOCK, unless it has
# them. The lock is copied last, so that an interrupted installation does not pass for a finished one.
define environment
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	{ echo "Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) --version 2>&1). Give another: make PYTHON=python3.12"; exit 1; }
@if ! cmp -s $(1) $(2)/.ready; then \
	$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "$(PYTHON) cannot make virtual environments. On Debian and Ubuntu: apt-get install python3-venv"; exit 1; }; \
	echo "Setting up $(2): $(3)." && \
	$(PYTHON) -m venv --clear $(2) && \
	$(2)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement $(1); \
fi
@cp $(1) $(2)/.ready
endef

$(READY): requirements.lock
	$(call environment,$<,$(VENV),several minutes and 6 GB the first time (PyTorch brings its CUDA libraries))

$(LOWEST)/.ready: tests/locks/lowest.lock
	$(call environment,$<,$(LOWEST),600 MB)

$(OPENCV5)/.ready: tests/locks/opencv5.lock
	$(call environment,$<,$(OPENCV5),600 MB)

# What runs keeps its version unless pyproject.toml excludes it: UPGRADE=--upgrade renews everything.
lock: ## make the locks again from pyproject.toml, with uv
	$(COMPILE) $(UPGRADE) --extra cpu --extra export --extra serve --extra label --extra ray --extra dev --output-file requirements.lock
	sed -i '1i # What .venv holds, with the hashes of its files. Made by `make lock` from pyproject.toml.' requirements.lock
	$(COMPILE) $(UPGRADE) $(SLIM) --resolution lowest-direct --output-file tests/locks/lowest.lock
	$(COMPILE) $(UPGRADE) $(SLIM) --override tests/locks/opencv5.txt --output-file tests/locks/opencv5.lock
	$(COMPILE) $(UPGRADE) $(IMAGE) --constraint requirements.lock --extra cpu --output-file deploy/locks/cpu.lock
	$(COMPILE) $(UPGRADE) $(IMAGE) --constraint requirements.lock --extra cpu --extra openvino --output-file deploy/locks/cpu-openvino.lock
	$(COMPILE) $(UPGRADE) $(IMAGE) --extra gpu --extra tensorrt --output-file deploy/locks/gpu.lock
	echo 'hatchling>=1.27' | $(COMPILE:pyproject.toml=-) $(UPGRADE) --output-file deploy/locks/build.lock

demo: $(READY) ## real ages of real portraits: demo.png; PHOTO=path adds your own
	$(RUN) export/build_engines.py --fp16 --output $(ENGINES)
	$(RUN) -m export.demo portraits $(if $(PHOTO),'$(PHOTO)') --engines $(ENGINES) --output demo.png

demo-architectures: $(READY) ## the four architectures on drawn faces, calibrated: demo-architectures.png
	$(RUN) export/build_engines.py --weights demo --fp16 --output $(DEMO_ENGINES)
	$(RUN) -m export.demo draw $(DEMO)
	$(RUN) export/calibrate.py --faces $(DEMO)/labeled/labels.csv --whole --engines $(DEMO_ENGINES) --output $(DEMO_ENGINES) --cache $(DEMO)/calibration
	$(RUN) export/evaluate.py --faces $(DEMO)/unseen/labels.csv --whole --engines $(DEMO_ENGINES) --fusion $(DEMO_ENGINES)/fusion.json --cache $(DEMO)/calibration --json > $(DEMO)/evaluation.json
	$(RUN) -m runtime predict --whole --engines $(DEMO_ENGINES) --json $(DEMO)/gallery/*.png > $(DEMO)/estimates.jsonl
	$(RUN) -m export.demo show $(DEMO) --output demo-architectures.png

# Two processes use two cores better than the threads of one.
test: $(READY) ## the quick tests
	OMP_NUM_THREADS=1 $(RUN) -m pytest --numprocesses auto --dist loadscope

setup-slim: $(LOWEST)/.ready $(OPENCV5)/.ready ## create the environments of test-lowest and test-opencv5

# Tests of the runtime that need no PyTorch: pictures, faces, geometry, experts, the service.
SLIM_TESTS := $(addprefix tests/runtime/test_,agemoe.py alignment.py detection.py drawing.py geometry.py images.py installed.py \
	photographs.py) tests/serving/test_ages.py

test-lowest: $(LOWEST)/.ready ## the runtime with the lowest versions that pyproject.toml allows
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest --numprocesses auto --dist loadscope $(SLIM_TESTS)

test-opencv5: $(OPENCV5)/.ready ## the runtime with OpenCV 5, which other packages bring
	OMP_NUM_THREADS=1 $(OPENCV5)/bin/python -m pytest --numprocesses auto --dist loadscope $(SLIM_TESTS)

test-conversion: $(READY) ## the tests that trace networks with PyTorch's exporter
	OMP_NUM_THREADS=1 $(RUN) -m pytest --numprocesses auto --dist loadscope -m 'conversion and not slow and not tensorrt'

test-slow: $(READY) ## the slow tests
	$(RUN) -m pytest -m slow

test-tensorrt: $(READY) ## NVIDIA's own parser, builder and CUDA bindings, without a GPU
	$(RUN) -m pytest -m 'tensorrt and not slow'

test-public: $(READY) ## the public preset, fetched from the package registries
	$(RUN) -m pytest -m public

gpu-check: $(if $(filter $(VENV)/%,$(RUN)),$(READY)) ## every check that needs a GPU, in one report; RUN=python uses your own environment
	$(RUN) benchmarks/gpu_check.py

docs: $(READY) ## the documentation's site: build/site
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict --quiet

lint: $(READY) ## ruff and mypy
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

clean: ## remove what the demos built; keep .venv
	rm -rf $(ENGINES)/.staging $(ENGINES)/*/ $(ENGINES)/*.json $(ENGINES)/timing.cache build demo.png demo-architectures.png
