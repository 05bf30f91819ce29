# `make` lists the targets. Every target does its own set-up; settings are in .env.example.
.DEFAULT_GOAL := help
.PHONY: help setup up run train down status logs sql mlflow-ui secrets images backup restore test test-docker check \
	bench bench-faults bench-gate bench-quality format lint lock docs docs-serve reference types layers doctests dockerfiles

PYTHON ?= python3
export PYTHON
# without bytecode every process compiles its imports again, which takes two thirds of a step's start
unexport PYTHONDONTWRITEBYTECODE
BIN := .venv/bin

# where the platform runs: processes of this machine, or with RUNTIME=docker containers, for which nothing is installed
RUNTIME ?= local
ifeq ($(RUNTIME),docker)
APEX := deployment/docker/platform.sh$(if $(P), -p "$(P)")
READY :=
else ifeq ($(RUNTIME),local)
APEX := $(BIN)/apex$(if $(P), -p "$(P)")
READY := setup
else
$(error RUNTIME=$(RUNTIME): expected local or docker)
endif

# the pipeline of `make run` and `make train` when none is named
NAMED := $(shell grep -sE '^[[:blank:]]*(export[[:blank:]]+)?APEX_PIPELINE[[:blank:]]*=' \
	"$(or $(APEX_ENV_FILE),$(or $(APEX_HOME),.)/.env)")
ifeq ($(P)$(APEX_PIPELINE)$(NAMED),)
JOB := $(APEX)$(if $(wildcard pipelines/orders/pipeline.yaml), -p orders)
else
JOB := $(APEX)
endif

# what one target prints stays together, where this make can do that
WHOLE := $(if $(filter output-sync,$(.FEATURES)),--output-sync=target)

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-11s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

setup: ## Make .venv with the exact packages (PYTHON=python3)
	@deployment/local/setup.sh

up: $(READY) ## Bring the platform up (RUNTIME=docker: in containers; so for the next ones)
	@$(APEX) up

run: $(READY) ## The main job: up, retrain, score a drop, report (P=pipeline, RAW=folder of raw parquet, DROP=file, INVENTED=1)
	@$(JOB) run $(if $(RAW),--raw "$(RAW)") $(if $(DROP),--drop "$(DROP)") $(if $(INVENTED),--invented)

train: up ## Retrain alone and wait for it (P=pipeline)
	@$(JOB) retrain

down: $(READY) ## Stop the platform; data stays
	@$(APEX) down

status: $(READY) ## Services, champion, drops waiting, last runs
	@$(APEX) status

logs: $(READY) ## The list of logs, or one of them (S=scheduler)
	@$(APEX) logs $(if $(S),"$(S)")

sql: $(READY) ## psql as the reader
	@$(APEX) sql

mlflow-ui: $(READY) ## Print and check the address of MLflow
	@$(APEX) mlflow-ui

backup: $(READY) ## Write databases, artifacts and data into one file (TO=folder, by default backups)
	@$(APEX) backup $(if $(TO),"$(TO)")

restore: $(READY) ## Bring a backup back, on either runtime (FROM=file)
	@$(APEX) restore "$(FROM)"

secrets: ## Add to .env what the platform in containers needs; RUNTIME=docker make up does it too
	@deployment/docker/platform.sh secrets

images: ## Build the images of the platform in containers (BASE_IMAGE=…)
	@deployment/docker/platform.sh images

test: check ## Everything that CI runs: check, then all tests
	@$(BIN)/python -m pytest -n 2 --durations=10

test-docker: setup ## The platform in containers, really run; needs a Docker engine
	@$(BIN)/python -m pytest tests/docker/engine

# Two at a time: the types take about as long as all others together
check: setup ## Lint, types, layers, doctests, documents
	@$(MAKE) --no-print-directory --jobs=2 $(WHOLE) types lint layers doctests docs dockerfiles

types: setup ## Check types only
	@$(BIN)/mypy --strict apex_ml plugins dags

layers: setup ## Check what may import what only
	@$(BIN)/lint-imports
	@PYTHONPATH=plugins:. $(BIN)/lint-imports --no-cache plugins/importlinter.toml

doctests: setup ## Run the examples in docstrings only
	@$(BIN)/python -m pytest -q --doctest-modules apex_ml

dockerfiles: setup ## Check Dockerfiles and Compose file only
	@deployment/docker/check.sh

bench-gate: setup ## How often the gate errs, and how soon it finds a better model (half an hour)
	@$(BIN)/python -m benchmarks --only gate

bench-quality: setup ## Models on public tables beside XGBoost and HistGradientBoosting (gets the tables; ten minutes of CPU)
	@$(BIN)/python -m benchmarks.public_tables
	@$(BIN)/python -m benchmarks --only model_quality

bench-faults: setup ## Score from an object store under a thousand faults and kills (half an hour)
	@$(BIN)/python -m benchmarks --only object_faults --only object_events

bench: setup ## Measure every target and write build/bench.json
	@$(BIN)/python -m benchmarks

format: setup ## Format the code
	@$(BIN)/ruff check --fix --quiet .
	@$(BIN)/ruff format .

lint: setup ## Check style and format only
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

docs: setup ## Build the documentation into build/docs-site; a warning is an error
	@$(BIN)/zensical build --strict --clean

reference: setup ## Write the generated parts of the reference pages
	@APEX_TEST_WRITE_REFERENCE=1 $(BIN)/python -m pytest -q tests/docs/test_reference.py

docs-serve: setup ## Show the documentation on http://127.0.0.1:8000, rebuilt at every change
	@$(BIN)/zensical serve --dev-addr 127.0.0.1:8000

lock: export UV_SYSTEM_CERTS ?= true
lock: setup ## Compile requirements.txt again from pyproject.toml
	@$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-header --quiet --output-file requirements.txt
	@deployment/docker/lock.sh
