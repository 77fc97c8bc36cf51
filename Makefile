# decalog: every verb makes the environment it needs (.venv) from a pinned, hashed lock, then does its work.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: up test lint slow bench check-quick docs spark lock clean help

UV_VERSION = 0.13.9
VENV = .venv
BIN = $(VENV)/bin
SPARK = .venv-spark

# uv may not fetch a Python of its own; packages are copied, since links from its cache warn across file systems.
export UV_PYTHON_DOWNLOADS = never
export UV_LINK_MODE = copy

# The first Python that decalog supports and that can make an environment. `make up PYTHON=/path/to/python3.12` overrides.
SUPPORTED = import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))
PYTHON = $(shell for p in python3.11 python3.12 python3.13 python3; do \
  "$$p" -c '$(SUPPORTED)' >/dev/null 2>&1 && { echo "$$p"; break; }; done)

up: $(VENV)/core.stamp  ## train, serve and drive fraud, then the control room and feed beside it
	@$(BIN)/decalog up

test: $(VENV)/dev.stamp  ## run the tests
	@$(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(VENV)/dev.stamp  ## check style, types and the floors of the house
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

slow: $(VENV)/dev.stamp  ## run the tests that take time or load, and the benchmarks that have a short form
	@HYPOTHESIS_PROFILE=thorough $(BIN)/python -m pytest -m slow
	@$(call run_benches,--short)

bench: $(VENV)/dev.stamp  ## run every benchmark and print its table
	@$(call run_benches)

# What a busy machine does not let be measured ends with 2, and is no failure here.
check-quick: $(VENV)/dev.stamp  ## check the readiness of a small fraud home that is made for it
	@folder="$$(mktemp -d)"; trap 'rm -rf "$$folder"' EXIT; \
	  $(BIN)/decalog train fraud --brief --world-days 150 --world-scale 0.15 --seed 0 --home "$$folder/home" && \
	  cp .ci/slo.toml "$$folder/home" && \
	  { $(BIN)/decalog check fraud --quick --home "$$folder/home" || [ $$? -eq 2 ]; }

docs: $(VENV)/dev.stamp  ## run every code block of the docs
	@$(BIN)/python -m pytest tests/test_docs.py

spark: $(SPARK)/spark.stamp  ## run the tests of features and forecasts on Spark, in an environment of their own (Java 17, 1 GB)
	@$(SPARK)/bin/python -m pytest -rs tests/features/test_spark.py tests/systems/demand/forecast/test_spark.py

lock: $(VENV)/uv.stamp  ## pin what pyproject.toml asks for, with hashes (UPGRADE=1: in the newest versions)
	@echo "uv==$(UV_VERSION)" | $(COMPILE) - -o requirements-uv.lock
	@$(COMPILE) $(if $(UPGRADE),--upgrade) --extra dev pyproject.toml -o requirements.lock
	@$(COMPILE) -c requirements.lock pyproject.toml -o requirements-core.lock
	@$(COMPILE) -c requirements.lock --extra spark pyproject.toml -o requirements-spark.lock

COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
  --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"

clean:  ## remove the environment and all caches (never var/, where the decisions are)
	@rm -rf $(VENV) $(SPARK) dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find src tests bench examples -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

help:  ## list the verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' Makefile

# A benchmark is a script under bench/ that knows --json; the others there are its parts. $(1) is an option it must know.
run_benches = for bench in $$(grep -l -e --json bench/*/*.py 2>/dev/null); do \
  grep -q -e "$(or $(1),--json)" "$$bench" || continue; \
  echo "== $$bench $(1)"; $(BIN)/python "$$bench" $(1) || exit 1; done

# What `up` needs is a subset of what `test` needs: making the second makes the first, and the first undoes the second.
$(VENV)/core.stamp: requirements-core.lock pyproject.toml $(VENV)/uv.stamp
	@$(call install,requirements-core.lock)
	@rm -f $(VENV)/dev.stamp
	@touch $@

$(VENV)/dev.stamp: requirements.lock pyproject.toml $(VENV)/uv.stamp
	@$(call install,requirements.lock)
	@touch $(VENV)/core.stamp $@

# Spark has an environment of its own: with pandas beside them, other libraries import more and warn more.
$(SPARK)/spark.stamp: requirements.lock requirements-spark.lock pyproject.toml $(VENV)/uv.stamp
	@echo "Installing what requirements-spark.lock pins"; \
	  $(BIN)/uv venv --quiet --clear --python $(BIN)/python $(SPARK) && \
	  $(BIN)/uv pip sync --quiet --python $(SPARK)/bin/python --require-hashes requirements.lock requirements-spark.lock && \
	  $(BIN)/uv pip install --quiet --python $(SPARK)/bin/python --no-deps --editable .
	@touch $@

$(VENV)/uv.stamp: requirements-uv.lock
	@python="$(PYTHON)"; [ -n "$$python" ] || { $(NO_PYTHON); }; \
	  echo "Making $(VENV) with $$("$$python" -c 'import platform; print("Python", platform.python_version())')"; \
	  rm -rf $(VENV) && "$$python" -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --require-hashes -r requirements-uv.lock
	@touch $@

# The library alone: importing lightgbm takes seconds in a new environment.
LOAD_LIGHTGBM = import ctypes, pathlib, sysconfig; \
  [ctypes.CDLL(str(p)) for p in pathlib.Path(sysconfig.get_path("purelib")).glob("lightgbm/lib/lib_lightgbm.*")]

define install
echo "Installing what $(1) pins"; \
$(BIN)/uv pip sync --python $(BIN)/python --require-hashes $(1) && \
$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable . && \
{ $(BIN)/python -c '$(LOAD_LIGHTGBM)' 2>/dev/null || { $(NO_OPENMP); }; }
endef

define NO_PYTHON
{ echo "make: no Python to make $(VENV) with"; \
echo "  found:    $$(python3 --version 2>/dev/null || echo 'no python3 that runs')"; \
echo "  expected: Python 3.11, 3.12 or 3.13 with the venv module, as python3.11, python3.12, python3.13 or python3"; \
echo "  do:       Debian and Ubuntu: apt-get install python3 python3-venv; macOS: brew install python@3.11;"; \
echo "            or name one: make PYTHON=/path/to/python3.11"; } >&2; exit 1
endef

define NO_OPENMP
{ echo "make: LightGBM cannot start in $(VENV)"; \
echo "  found:    $$($(BIN)/python -c '$(LOAD_LIGHTGBM)' 2>&1 | tail -n 1)"; \
echo "  expected: the OpenMP runtime of the system (libgomp on Linux, libomp on macOS)"; \
echo "  do:       Debian and Ubuntu: apt-get install libgomp1; macOS: brew install libomp"; } >&2; exit 1
endef
