# make setup   a virtual environment in .venv with the locked packages
# make demo    setup, then one whole cycle on the shipped support tickets, in demo/
# make test    setup, then every test
# make lint    setup, then style, types and import order
#
# PYTHON      the Python that makes the environment (3.11 or newer)
# TORCH       what pip installs as torch: a version, or the path of a wheel made for this machine
# TORCH_DEPS  yes: let pip add what that build of torch asks for (the builds for graphics cards ask for gigabytes)

PYTHON ?= python3
TORCH ?= torch==2.13.0
TORCH_DEPS ?= no
TESTS ?= tests
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: setup demo test lint clean

setup: $(VENV)/installed

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Attune needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Give another: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { echo "$(PYTHON) cannot make virtual environments: install its venv package (on Debian and Ubuntu: apt install python3-venv)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# One stamp per step: what did not change is not done again, and a step that broke off is done again.
$(VENV)/torch-installed: | $(BIN)/python
	$(PIP) install --quiet $(if $(filter yes,$(TORCH_DEPS)),,--no-deps) "$(TORCH)"
	@touch $@

$(VENV)/lock-installed: requirements.lock | $(VENV)/torch-installed
	$(PIP) install --quiet --no-deps -r requirements.lock
	@$(BIN)/python -c 'import torch' || { rm -f $(VENV)/torch-installed; echo "This build of torch does not start here: it was made for a graphics card and lacks its libraries."; \
	  echo "Either give a build for processors (make $(MAKECMDGOALS) TORCH=path/to/torch-cpu.whl, or set PIP_EXTRA_INDEX_URL to PyTorch's CPU index),"; \
	  echo "or let pip add the libraries: make $(MAKECMDGOALS) TORCH_DEPS=yes"; exit 1; }
	@touch $@

$(VENV)/installed: pyproject.toml $(VENV)/lock-installed
	$(PIP) install --quiet --no-deps --no-build-isolation -e .
	@touch $@

# The demo works on a copy, so that the shipped example stays as it is; a second `make demo` does only what changed.
demo: setup
	@mkdir -p demo
	@cp -R src/attune/recipes/support_tickets demo/
	@cd demo && ../$(BIN)/attune run support_tickets/recipe.yaml
	@echo "The release answers with: cd demo && ../$(BIN)/attune serve support_tickets"

# One thread a process: with two processes on two cores, more threads only get in each other's way.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile $(TESTS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) demo build
