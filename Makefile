.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help setup demo test check airflow bench lock

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' Makefile | sed 's/:.*## /\t/' | expand -t 12

setup: .venv/.installed  ## create .venv with the locked dependencies

.venv/.installed: pyproject.toml requirements.lock infra/preflight.py
	@$(PYTHON) infra/preflight.py
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing the locked dependencies (a few minutes on the first run)"
	@$(BIN)/pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[airflow,spark,ray,llm,text,dev]' \
		2>.venv/install.log || (grep -v '^WARNING' .venv/install.log; exit 1)
	@touch $@

demo: setup  ## two nights of a generated shop, end to end
	@$(BIN)/python -m pipelines.demo

test: check  ## the checks, then the whole test suite
	@$(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

check: setup  ## format, lint, types, import contracts
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

airflow: setup  ## a real local Airflow with these DAGs, on the demo's lake
	@$(BIN)/python -m infra.local_airflow

bench: setup  ## the side-by-side benchmarks
	@$(BIN)/python -m pipelines.benchmark_suite
	@$(BIN)/python -m infra.bench

lock: setup  ## resolve requirements.lock again from pyproject.toml
	@$(BIN)/pip install --quiet uv && $(BIN)/uv pip compile pyproject.toml --all-extras --universal \
		--python-version 3.11 --no-header --no-annotate -o requirements.lock
