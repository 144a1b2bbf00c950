# make setup | train | test | test-slow | lint | bench | docs | clean.  Setup does nothing the second time.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.setup-done
# Workers for the tests, one core each; PYTEST takes further options, e.g. make test PYTEST="-k hopfield".
JOBS   ?= 2
PYTEST ?=

# Compiled functions are kept, so that a second run starts at once. Per project: whoever can write there can run code here.
export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.cache/jax
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS ?= 0
export JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES ?= -1

.PHONY: setup train test test-slow lint format bench docs clean

setup: $(STAMP)

$(STAMP): requirements.lock pyproject.toml tools/setup-parts
	@test -n "$(PYTHON)" || { echo "No python3 found; install Python 3.11 or newer, or call make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than Python 3.11; call make PYTHON=/path/to/python3.11"; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV) || { echo "No venv; on Debian: apt-get install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@tools/setup-parts
	@touch $@

train: setup
	$(BIN)/eqprop train digits

# One line at the end, pytest's own. OpenMP and BLAS threads would fight for the cores the workers are pinned to. By file:
# code blocks of a page share their names, tests of a file what they compiled. Pages come first, being the longest.
test: setup
	@OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile README.md docs src tests $(PYTEST)

test-slow: setup
	@$(BIN)/python -m pytest -q -m slow $(PYTEST)

lint: setup
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright --pythonpath $(BIN)/python --level error

format: setup
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

bench: setup
	@$(BIN)/python -c 'import torch' 2>/dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	@$(BIN)/python -c 'import torch' 2>/dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check --group bench
	@set -e; for file in benchmarks/*.py; do case "$$file" in */_*) continue;; esac; echo "== $$file"; $(BIN)/python "$$file"; done

docs: setup
	@$(BIN)/python -c 'import latex2mathml, material, mkdocstrings' 2>/dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	@$(BIN)/python -c 'import latex2mathml, material, mkdocstrings' 2>/dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check --group docs
	@$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) .cache .pytest_cache .ruff_cache .hypothesis build dist site
