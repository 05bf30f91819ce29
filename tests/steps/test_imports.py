"""What a step's process imports: scoring has no time for libraries that take seconds."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "module", ["steps.score", "steps.promote", "steps.validate", "steps.elt", "steps.outcomes", "cli.steps"]
)
def test_importing_a_step_imports_no_slow_library(module: str) -> None:
    slow = "{'mlflow', 'great_expectations', 'airflow', 'sklearn', 'matplotlib', 'xgboost', 'optuna', 'statsmodels'}"
    code = f"import sys, apex_ml.{module}; print(sorted({slow} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "module", ["steps.score", "steps.validate", "steps.list_drops", "cli.main", "platform.main_job"]
)
def test_the_packages_of_tables_are_imported_only_for_tables(module: str) -> None:
    code = f"import sys, apex_ml.{module}; print(sorted({{'deltalake', 'pyiceberg'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
