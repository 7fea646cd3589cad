# Every chore of the project. `make help` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
N ?= 200
ALSO ?=

.PHONY: help
help: ## list the chores
	@grep -hE '^[a-z][a-z-]*:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  %-14s %s\n", $$1, $$2}'

.PHONY: setup
setup: .venv/.ready engine ## create .venv with gitopsd, its pinned dependencies and the engine

.venv/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

.PHONY: engine
engine: .venv/.ready ## build the engine to .venv/bin/gitopsd-engine
	@$(BIN)/python tools/build_engine.py $(BIN)/gitopsd-engine

.PHONY: controlplane
controlplane: .venv/.ready ## build the real control plane into a cache outside the checkout (once)
	@$(BIN)/python tools/controlplane/build.py

.PHONY: demo
demo: setup controlplane ## see a Git repository reach a cluster, step by step (KEEP=1 leaves it running)
	@KEEP=$(KEEP) $(BIN)/python -m tools.demo

.PHONY: check
check: setup ## format, lint, types, import contract, unit tests, generated files, the engine
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m gitopsd.api.crd --check config/crd
	@$(BIN)/python tools/engine_check.py
	@$(BIN)/pytest -q -n 2 --dist worksteal tests/unit

.PHONY: test
test: setup controlplane ## all tests, also those against the real control plane
	@# Machines are shared and noisy: a test with a real cluster may be repeated, and every repetition is shown (R).
	@$(BIN)/pytest -q -n 2 --dist loadfile --reruns 2 -rR tests

.PHONY: faults
faults: setup controlplane ## the long fault campaigns in full
	@GITOPSD_CAMPAIGN=full $(BIN)/pytest -q tests/faults

.PHONY: bench
bench: setup controlplane ## numbers against the API server's own floor (N=200; ALSO="gitrepo gitpolls helmindex helmcharts bucket")
	@$(BIN)/python -m tests.bench --count $(N) $(if $(ALSO),--also $(ALSO))

.PHONY: crds
crds: .venv/.ready ## generate config/crd from the models
	@$(BIN)/python -m gitopsd.api.crd --write config/crd

.PHONY: manifests
manifests: crds controlplane ## render manifests/install.yaml from config/default
	@$(BIN)/python tools/manifests.py --write

.PHONY: rows
rows: .venv/.ready ## rows of the hostile-input table, with and without a test
	@$(BIN)/python tools/rows.py

.PHONY: format
format: .venv/.ready ## format and fix what can be fixed
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

.PHONY: clean
clean: ## remove what was built here; the control plane's cache stays
	@rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
