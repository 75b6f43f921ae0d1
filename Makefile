# Two commands do everything: `make demo` and `make test`. Each sets up what it needs from nothing.
#
#   make demo PYTHON=python3 SYSTEM=1   uses the packages of PYTHON as they are (a GPU machine with its own torch, no network)
#   make test TORCH="torch==2.13.0"     the torch that goes into .venv; PIP_ARGS is handed to every pip install

PYTHON ?= python3
TORCH ?= torch==2.13.0
PIP_ARGS ?=
SYSTEM ?=

ifeq ($(SYSTEM),1)
PY := $(PYTHON)
STATE := build/system
CLANG_FORMAT := clang-format
else
PY := .venv/bin/python
STATE := .venv/state
CLANG_FORMAT := .venv/bin/clang-format
endif

PIP := $(PY) -m pip install --quiet --disable-pip-version-check $(PIP_ARGS)
SOURCES := $(shell find csrc -type f) CMakeLists.txt setup.py pyproject.toml
BUILD_TOOLS := "setuptools>=70" wheel "cmake>=3.26" ninja "pybind11>=2.12"
CAPABILITIES := default avx2 avx512
PYTEST := $(PY) -m pytest -q
# One worker per core where pytest-xdist is installed; a machine with packages of its own (SYSTEM=1) may lack it.
WORKERS = $$($(PY) -c "import xdist" 2>/dev/null && echo "-n auto --maxprocesses 8 --dist worksteal")

.PHONY: demo test build bench bench-full lint gpu check test-isa test-transformers cuda-build sanitize model latent-rm figure evaluate example clean

demo: build
	$(PY) -m latent_ext_cli demo

test: build $(STATE)/test
	$(PYTEST) $(WORKERS) python_tests

build: $(STATE)/built

# `make test` runs at the best ISA level of this machine; this, the suite at all the others. The CUDA tests do not depend on it.
test-isa: build $(STATE)/test
	@supported=$$($(PY) -c "from latent_ext import _native; print(*_native.supported_capabilities())"); \
	best=$$($(PY) -c "from latent_ext import _native; print(_native.cpu_capability())"); \
	for level in $(CAPABILITIES); do \
	  case " $$supported " in \
	    *" $$level "*) ;; \
	    *) echo "== $$level: not supported by this machine, not tested"; continue ;; \
	  esac; \
	  if [ "$$level" = "$$best" ]; then echo "== $$level: the level of make test"; continue; fi; \
	  echo "== LATENT_EXT_CPU_CAPABILITY=$$level"; \
	  LATENT_EXT_CPU_CAPABILITY=$$level $(PYTEST) $(WORKERS) python_tests --ignore=python_tests/cuda || exit 1; \
	done

# The oldest transformers that is supported, and 4.52.4, the only one on which LatentTTS's own classes import.
test-transformers: build $(STATE)/test
	.ci/with_transformers 5.17.0 $(abspath $(PY)) build/transformers-5.17.0 -m pytest -q -p no:cacheprovider \
	  python_tests/hf python_tests/models python_tests/families/test_coconut.py python_tests/families/test_codi.py
	.ci/with_transformers 4.52.4 $(abspath $(PY)) build/transformers-4.52.4 python_tests/hf/minimal_class.py

lint: $(STATE)/lint
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(CLANG_FORMAT) --dry-run --Werror $(filter %.h %.cpp %.cu %.cuh,$(SOURCES))

# Every CUDA kernel for every release architecture, with registers and spills against the budget.
cuda-build: build
	@if command -v nvcc >/dev/null || [ -x /usr/local/cuda/bin/nvcc ]; then $(PY) csrc/cuda/check_resources.py; \
	else echo "cuda-build: no nvcc on this machine, CUDA kernels not compiled"; fi

check: lint test test-isa test-transformers cuda-build

# On a machine with a GPU and a CUDA torch of its own (PYTHON), without network: builds for this GPU, runs the tests that need one,
# sanitizers and benchmarks, and writes OUT/gpu.json and OUT/gpu.txt. A failed stage does not stop the next; it fails the target.
OUT ?= bench/results
gpu:
	@$(PYTHON) bench/gpu_stages.py --python "$$(command -v $(PYTHON))" --out "$(OUT)"

# Ops against PyTorch, then best-of-N and weighted vote against two PyTorch baselines: bench/results/*.json and docs/best_of_n.png.
# About 20 minutes on one thread; bench-full fills every cell of the grid and takes hours.
bench: GRID := quick
bench-full: GRID := full
bench bench-full: build $(STATE)/test
	@mkdir -p bench/results
	$(PYTEST) bench/ops.py --benchmark-json=build/bench_ops.json
	$(PY) bench/best_of_n.py --grid $(GRID)
	$(PIP) "matplotlib>=3.8"
	$(PY) bench/plot_best_of_n.py

# Native ops, native engine and thread team under AddressSanitizer and UndefinedBehaviorSanitizer, in a build of their own.
sanitize: build $(STATE)/test
	csrc/testing/run_sanitized_tests.sh $(PY) build/sanitize

# Retrains the shipped generator and LatentRM into build/model, and measures them (about 100 minutes on two cores).
model: build $(STATE)/test
	examples/shipped_model/make.sh "$(PY)" build/model

# Labels for the shipped generator and two LatentRMs trained on them, into build/latent_rm (about 40 CPU minutes).
latent-rm: build $(STATE)/test
	examples/shipped_model/latent_rm.sh "$(PY)" build/latent_rm

figure: build
	$(PIP) "matplotlib>=3.8"
	$(PY) bench/scaling_curve.py

# The shipped model on 500 held-out problems: tables with intervals, and the run in build/evaluate (goes on where it was).
evaluate: build
	$(PY) -m latent_ext_cli evaluate examples/evaluate/shipped.yaml --out build/evaluate --threads 2

# A checkpoint in LatentTTS's layout: accelerated, against a loop over the stock modules.
example: build
	$(PY) examples/accelerate_latenttts.py

clean:
	rm -rf build dist latent_ext.egg-info latent_ext/_C*.so latent_ext/_native*.so

ifeq ($(SYSTEM),1)
$(STATE)/built: $(SOURCES)
	$(PIP) --no-build-isolation --no-deps --editable .
	@mkdir -p $(STATE) && touch $@

$(STATE)/test $(STATE)/lint: $(STATE)/built
	@touch $@
else
$(STATE)/tools:
	$(PYTHON) -m venv .venv
	$(PIP) $(TORCH)
	$(PIP) $(BUILD_TOOLS)
	@mkdir -p $(STATE) && touch $@

$(STATE)/built: $(STATE)/tools $(SOURCES)
	$(PIP) --no-build-isolation --editable .
	@touch $@

$(STATE)/test: $(STATE)/built
	$(PIP) --no-build-isolation --editable ".[test,bench]"
	@touch $@

$(STATE)/lint: $(STATE)/test
	$(PIP) --no-build-isolation --editable ".[dev]"
	@touch $@
endif
