# `make` lists the targets. Every target does its own set-up; settings are in .env.example.
.DEFAULT_GOAL := help
.PHONY: help setup up run train down status logs mlflow-ui test check bench bench-gate format lint lock

PYTHON ?= python3
export PYTHON
BIN := .venv/bin

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-11s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

setup: ## Make .venv with the exact packages (PYTHON=python3)
	@deployment/local/setup.sh

up: setup ## Bring the platform up
	@$(BIN)/apex up

run: setup ## The main job: up, retrain, score a fresh drop, report (RAW=folder of raw parquet)
	@$(BIN)/apex run $(if $(RAW),--raw "$(RAW)")

train: up ## Run apex_retrain alone and wait for it
	@$(BIN)/apex retrain

down: setup ## Stop the platform; data stays
	@$(BIN)/apex down

status: setup ## Services, champion, drops waiting, last runs
	@$(BIN)/apex status

logs: setup ## The list of logs, or one of them (S=scheduler)
	@$(BIN)/apex logs $(if $(S),"$(S)")

mlflow-ui: setup ## Print and check the address of MLflow
	@$(BIN)/apex mlflow-ui

test: check ## Everything that CI runs: check, then all tests
	@$(BIN)/python -m pytest -n 2

check: lint ## Lint, types, layers, doctests
	@$(BIN)/mypy --strict apex_ml
	@$(BIN)/lint-imports
	@$(BIN)/python -m pytest -q --doctest-modules apex_ml --ignore=apex_ml/core/candidates/lightgbm_trees.py

bench-gate: setup ## How often the gate errs, and how soon it finds a better model (half an hour)
	@$(BIN)/python -m tests.bench --only gate

bench: setup ## Measure every target and write build/bench.json
	@$(BIN)/python -m tests.bench

format: setup ## Format the code
	@$(BIN)/ruff check --fix --quiet .
	@$(BIN)/ruff format .

lint: setup ## Check style and format only
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

lock: setup ## Compile requirements.txt anew from pyproject.toml
	@$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-header --quiet --output-file requirements.txt
