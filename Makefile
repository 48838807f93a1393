# Commands for working on Holdfast. They need Python 3.11 or newer and make; everything else is
# installed into .venv, once, and again when pyproject.toml changes. `make` alone lists them.

MAKEFLAGS += --no-print-directory
SHELL = /bin/sh
BIN = .venv/bin
STAMP = .venv/.stamp
JOBS ?= 2
# One more than cores: who kills processes waits for them now and then.
LAB_JOBS ?= $$(( $(JOBS) + 1 ))
# What CI runs is the same each time; `make lab` and the nights draw new seeds.
LAB_SEED ?= 1

# Tests start thousands of processes; without this each would compile everything anew.
unexport PYTHONDONTWRITEBYTECODE

# The system's own first: distributions build it with profiles, by which the lab takes a fifth
# less; version managers mostly do not. A name may exist and not run (a version manager's shim),
# or run without venv (a bare system).
PYTHON ?= $(shell for python in /usr/bin/python3 python3.13 python3.12 python3.11 python3; do \
	if $$python -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' \
	>/dev/null 2>&1; then echo $$python; break; fi; done)

# Pyright runs on Node; where there is none, it comes as a wheel.
NODE = $(shell command -v node >/dev/null 2>&1 || echo 'pyright[nodejs]')

.DEFAULT_GOAL = help
.PHONY: help demo test browser check check-format check-style check-mypy check-pyright check-imports
.PHONY: lab lab-nouns lab-nightly bench examples format clean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(STAMP) ## the main job on real input with kills (DEMO_ARGS="...")
	@echo "== demo: real input, killed again and again; nothing acknowledged may be lost"
	@$(BIN)/holdfast demo $(DEMO_ARGS)

test: $(STAMP) browser ## everything CI runs: check, all tests, the crash lab (TEST_ARGS="...", LAB_ARGS="...")
	@started=$$(date +%s); failed=; \
	$(MAKE) -k check || failed=" check"; \
	echo "== tests: on SQLite and PostgreSQL, $(JOBS) at a time"; \
	$(BIN)/pytest -q -n $(JOBS) $(TEST_ARGS) || failed="$$failed tests"; \
	for part in lab lab-nouns; do \
		$(MAKE) $$part LAB_ARGS="--seed $(LAB_SEED) $(LAB_ARGS)" || failed="$$failed $$part"; \
	done; \
	took=$$(( $$(date +%s) - started )); \
	if [ -n "$$failed" ]; then echo "make test: FAILED in$$failed ($$took s)"; exit 1; fi; \
	echo "make test: format, style, types, imports, tests and lab are all right ($$took s)"

browser: ## a browser for the tests, from the system's packages (as root, where there is none)
	@command -v chromedriver >/dev/null 2>&1 || { \
		echo "== browser: chromium and its driver, from the system's packages"; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
			--no-install-recommends chromium chromium-driver >/dev/null; } \
	|| echo "browser: could not be installed; its tests will say so"

check: check-format check-style check-mypy check-pyright check-imports ## what needs no test run: format, style, types, import contracts

check-format: $(STAMP)
	@echo "== format: ruff format"
	@$(BIN)/ruff format --check .

check-style: $(STAMP)
	@echo "== style: ruff check"
	@$(BIN)/ruff check --quiet .

check-mypy: $(STAMP)
	@echo "== types: mypy"
	@$(BIN)/mypy src $(wildcard tests/typing/accepted.py)

check-pyright: $(STAMP)
	@echo "== types: pyright"
	@$(BIN)/pyright --pythonpath $(BIN)/python

check-imports: $(STAMP)
	@echo "== imports: import-linter"
	@$(BIN)/lint-imports --no-logo --no-cache

lab: $(STAMP) ## the crash lab of the store, 10 minutes on 2 cores (LAB_ARGS="...")
	@echo "== lab: what a crash may leave, and what the store makes of it"
	@$(BIN)/python -m tests.lab --part kernel --workers $(LAB_JOBS) $(LAB_ARGS)

lab-nouns: $(STAMP) ## the crash lab of sessions, ledger, runs and engines, 2 minutes (LAB_ARGS="...")
	@echo "== lab of nouns: what a crash may leave of work, and how it goes on"
	@$(BIN)/python -m tests.lab --part nouns --workers $(LAB_JOBS) $(LAB_ARGS)

lab-nightly: $(STAMP) ## the crash lab for an hour, on new seeds (LAB_ARGS="--minutes 60")
	@echo "== lab, nightly: orders of three instances, then new seeds until the time is over"
	@$(BIN)/python -m tests.lab --nightly --workers $(LAB_JOBS) $(LAB_ARGS)

bench: $(STAMP) ## ratios, measured side by side in one run (BENCH_ARGS="--only ...")
	@echo "== bench: ratios, measured side by side"
	@$(BIN)/python -m bench $(BENCH_ARGS)

examples: $(STAMP) ## each example under kills (NAME=gateway for one)
	@echo "== examples: each under kills, its invariant checked"
	@$(BIN)/python -m examples $(NAME)

format: $(STAMP) ## put all files into shape
	@echo "== format: ruff format, ruff check --fix"
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

clean: ## remove everything that the other commands made
	@echo "== clean: .venv, build, caches"
	@rm -rf .venv build dist .hypothesis .mypy_cache .ruff_cache .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer (with venv) is needed"; exit 1; }
	@echo "== install: .venv with Holdfast and its tools, by $(PYTHON)"
	@$(BIN)/python -c pass 2>/dev/null || $(PYTHON) -m venv --clear .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[all]' --group dev \
		$(if $(NODE),'$(NODE)')
	@touch $(STAMP)
