# Each target installs what it needs into .venv, once per change of pyproject.toml.

PYTHON ?= python3
VENV = .venv
BIN = $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: help demo test lint docs bench clean
.NOTPARALLEL:

help:
	@echo "make demo   see peers come and go"
	@echo "make test   run the tests"
	@echo "make lint   check format, style and types"
	@echo "make docs   build the documentation into site/"
	@echo "make bench  measure"
	@echo "make clean  remove everything that these made"

demo: $(VENV)/.cli
	$(BIN)/zdisco demo

test: $(VENV)/.test
	$(BIN)/python -m pytest

lint: $(VENV)/.lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# The variable silences a notice of the theme about its own future.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(VENV)/.bench
	$(BIN)/python -m bench

clean:
	rm -rf $(VENV) site build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.cli: pyproject.toml | $(BIN)/python
	$(INSTALL) -e '.[cli]'
	touch $@

$(VENV)/.test: pyproject.toml | $(BIN)/python
	$(INSTALL) -e '.[test]'
	touch $@

# mypy reads the types of what the tests import.
$(VENV)/.lint: pyproject.toml | $(BIN)/python
	$(INSTALL) -e '.[lint,test]'
	touch $@

$(VENV)/.docs: pyproject.toml | $(BIN)/python
	$(INSTALL) -e '.[docs]'
	touch $@

$(VENV)/.bench: pyproject.toml | $(BIN)/python
	$(INSTALL) -e '.[bench]'
	touch $@
