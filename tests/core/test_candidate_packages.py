"""Each candidate names the packages that its models need, so that MLflow's environment of a model has them."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest

from apex_ml.adapters.mlflow.tracking import OF_EVERY_MODEL, pins
from apex_ml.core.candidates import MODULES
from apex_ml.settings import CODE_ROOT

FOLDER = CODE_ROOT / "apex_ml" / "core" / "candidates"
DISTRIBUTIONS = packages_distributions()
SCORES = """
import sys
class Only:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {refused}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Only())
import apex_ml.core.estimator
from apex_ml.core.candidates import candidate
candidate({name!r})
"""


def imported(module: ast.Module) -> set[str]:
    """Distributions that a module imports when it is loaded, those of types left out."""
    names: set[str] = set()
    for node in module.body:
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    others = {name for name in names if name not in sys.stdlib_module_names and name not in ("apex_ml", "__future__")}
    return {(DISTRIBUTIONS.get(name) or [name])[0].lower() for name in others}


def declared(module: ast.Module) -> set[str]:
    """Value of `packages` in the candidate's class."""
    classes = [node for node in module.body if isinstance(node, ast.ClassDef)]
    values = [
        ast.literal_eval(statement.value)
        for node in classes
        for statement in node.body
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "packages"
    ]
    return set(values[0]) if values else set()


@pytest.mark.parametrize("name", MODULES)
def test_what_a_candidate_imports_is_what_it_names(name: str) -> None:
    module = ast.parse((FOLDER / f"{MODULES[name]}.py").read_text(encoding="utf-8"))
    assert imported(module) <= {*OF_EVERY_MODEL, *declared(module)}
    assert declared(module) <= imported(module)


@pytest.mark.parametrize("name", ["xgboost", "logistic", "prior"])
def test_the_requirements_have_exact_versions(name: str) -> None:
    packages = {*OF_EVERY_MODEL, *(["xgboost"] if name == "xgboost" else [])}
    assert pins(name) == [f"{package}=={version(package)}" for package in sorted(packages)]


def test_a_model_without_trees_loads_without_their_libraries(tmp_path: Path) -> None:
    """Besides what every model needs nothing is imported: the environment would not have it."""
    text = SCORES.format(refused={"xgboost", "lightgbm", "duckdb", "psycopg2", "httpx", "optuna"}, name="logistic")
    done = subprocess.run([sys.executable, "-c", text], cwd=CODE_ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
