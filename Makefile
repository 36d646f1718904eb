# `make demo`, `make test`, `make docs`. All set everything up on their first call and only then.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Modules are compiled when they are first imported, and kept: pip would compile thousands that nobody imports, which
# takes longer than the rest of the installation.
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test lint docs clean
.DEFAULT_GOAL := demo

# torch first and pinned: an unpinned one brings gigabytes of CUDA along.
$(READY): constraints.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) -e '.[dev]'
	@touch $@

demo: $(READY)
	$(BIN)/understudy demo

test: $(READY)
	$(BIN)/pytest -n 2 --dist worksteal

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site, in build/site. Its tools are installed for it alone: tests and CI do without.
docs: $(READY)
	$(PIP) -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) runs build .pytest_cache .mypy_cache .ruff_cache
