# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
# Every target does the set-up it needs; when nothing changed that costs no time.

PY := .venv/bin/python
# torch's threads spin while they wait for each other; on a busy CPU that makes training ten times slower.
export GOMP_SPINCOUNT ?= 10000
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast lint docs clean

help: ## list the targets
	@echo 'usage: make TARGET [PYTHON=python3.11] [MMCV=light|full]'
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1	\2/p' Makefile

setup: ## make .venv with all that is needed (tools/install.sh)
	@bash tools/install.sh

demo: setup ## draw toy people, train on them, test, write pictures
	@$(PY) tools/misc/run_demo.py

test: lint ## check style and run all tests, on two cores
	@OMP_NUM_THREADS=1 $(PY) -m pytest -q -n 2 --dist loadfile

test-fast: lint ## check style and run the quick tests
	@OMP_NUM_THREADS=1 $(PY) -m pytest -q -n 2 --dist loadfile -m 'not slow'

lint: setup ## check style only
	@$(PY) -m ruff check
	@$(PY) -m ruff format --check

docs: setup ## build the site of docs/ into site/
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --quiet

clean: ## remove .venv and caches; keep data, results and the compiled wheels
	rm -rf .venv .hypothesis .pytest_cache .ruff_cache build dist site *.egg-info
	find kapao_mm configs docs tools tests -name __pycache__ -prune -exec rm -rf {} +
