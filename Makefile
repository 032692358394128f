# `make` alone lists the targets. Each sets up .venv first if pyproject.toml or constraints.txt changed.
SHELL := /bin/sh
PYTHON ?= $(shell for p in python3.11 python3; do $$p -c $(IS_NEW_ENOUGH) 2>/dev/null && echo $$p && break; done)
SEED ?= 0
JOBS ?= 2
SHARE ?= 1

IS_NEW_ENOUGH := 'import sys; sys.exit(sys.version_info < (3, 11))'
BIN := .venv/bin
BEAT := sh tools/heartbeat.sh

.PHONY: help demo test coverage lint mutants torture study-sampler study-arms study-full study-likelihood study-coverage study-frontier bill site wheel test-slow acceptance clean
.DEFAULT_GOAL := help

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' Makefile

demo: .venv/.ready ## Train a tiny model in minutes and write its report (SEED=0)
	@$(BIN)/diffpo demo --seed $(SEED)

test: .venv/.ready ## Run the tests
	@OMP_NUM_THREADS=1 $(BEAT) testing $(BIN)/pytest -n 2 --dist worksteal

# Measuring costs half of the tests' processor time again, so it is not part of `test`.
coverage: .venv/.ready ## Run the tests, slower, and print the share of lines that they run
	@OMP_NUM_THREADS=1 $(BEAT) 'testing, with coverage' $(BIN)/pytest -n 2 --dist worksteal --cov=diffpo --cov-report=
	@echo "lines run by the tests: $$($(BIN)/coverage report --format=total) % (by file: $(BIN)/coverage report)"

lint: .venv/.ready ## Check style and types
	@$(BEAT) linting $(BIN)/ruff check
	@$(BEAT) linting $(BIN)/ruff format --check
	@$(BEAT) 'checking types' $(BIN)/mypy src tests tools studies examples

mutants: .venv/.ready ## Slow: plant bugs in the ground floor; the tests must catch each (JOBS=2)
	@$(BEAT) 'planting bugs' $(BIN)/python tools/mutants.py --jobs $(JOBS)

torture: .venv/.ready ## Slow: kills, flips, full disks, bad rewards, and a million completions that mean harm (SEED=0 JOBS=2)
	@PYTHONPATH=. OMP_NUM_THREADS=1 $(BIN)/python -m tests.torture --seed $(SEED) --jobs $(JOBS)

study-sampler: .venv/.ready ## Slow: learned sampler against fixed ones
	@$(BIN)/python studies/learned_sampler.py

study-arms: .venv/.ready ## Slow: the algorithms at equal calls, with and without KL (JOBS=2)
	@$(BIN)/diffpo study study-arms --out results/arms --against d1,d1+KL --jobs $(JOBS)

study-full: .venv/.ready ## Slow, days: every algorithm tuned on seeds of its own, five seeds reported (JOBS=2)
	@$(BIN)/diffpo study study-full --out results/full --against d1,diffpo --jobs $(JOBS)

study-frontier: .venv/.ready ## Slow: whole frontiers of ten seeds, ours against d1 at its best and DiFFPO (JOBS=2)
	@$(BIN)/python studies/frontier.py --jobs $(JOBS)

study-likelihood: .venv/.ready ## Slow: how far the surrogates are from the behaviour (JOBS=2)
	@$(BIN)/diffpo study study-likelihood --out results/likelihood --jobs $(JOBS)

study-coverage: .venv/.ready ## Slow: how often intervals hold the truth, by simulation (SHARE=0.1 of the trials)
	@PYTHONPATH=. OMP_NUM_THREADS=1 $(BIN)/python studies/coverage.py --share $(SHARE)

bill: .venv/.ready ## Compute the table of docs/bill.md
	@$(BIN)/python studies/bill.py

site: .venv/.ready ## Build the documentation site into build/site
	@$(BEAT) 'building the site' $(BIN)/python tools/build_site.py

wheel: .venv/.ready ## Build the wheel into dist
	@$(BEAT) 'building the wheel' $(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

test-slow: .venv/.ready ## Slow: the tests that `make test` leaves out, and shards in every layout
	@OMP_NUM_THREADS=1 $(BEAT) 'testing what is slow' $(BIN)/pytest -n 2 --dist worksteal -m slow
	@OMP_NUM_THREADS=1 ALL_LAYOUTS=1 $(BEAT) 'testing all layouts' $(BIN)/pytest tests/distributed/test_sharding.py

acceptance: .venv/.ready ## Slow: what a reader does, from a wheel in an empty environment
	@$(BIN)/pytest -m slow -s tests/docs

clean: ## Remove the environment and every cache; runs/ stays
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage
	find src tests tools -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.ready: pyproject.toml constraints.txt
	@'$(PYTHON)' -c $(IS_NEW_ENOUGH) 2>/dev/null || { echo 'diffpo needs Python 3.11 or newer: install it, or name one with: make PYTHON=/path/to/python3.11' >&2; exit 1; }
	@echo 'Setting up .venv (about a minute)'
	@$(BEAT) 'creating .venv' '$(PYTHON)' -m venv .venv
	@PIP_CONSTRAINT=constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1 $(BEAT) installing $(BIN)/python -m pip install --quiet -e '.[dev]'
	@touch $@
