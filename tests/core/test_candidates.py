"""Each candidate names the packages that its models need, so that MLflow's environment of a model has them."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions, version
from pathlib import Path

import numpy as np
import pytest

from apex_ml.adapters.mlflow.tracking import OF_EVERY_MODEL, pins
from apex_ml.core import candidates
from apex_ml.core.candidates import (
    candidate,
    candidate_names,
    declared,
    distribution,
    image_requirements,
    missing_requirements,
)
from apex_ml.core.candidates.interface import FitContext, Part
from apex_ml.core.estimator import Encoder, Model
from apex_ml.errors import ConfigError
from apex_ml.setting_types import check_candidates
from apex_ml.settings import CODE_ROOT
from tests.support.model_infos import INFO

FOLDER = CODE_ROOT / "apex_ml" / "core" / "candidates"
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
    """Distributions that a module imports when it is loaded or used, those of types left out."""
    names: set[str] = set()
    typing = {id(inner) for node in module.body if isinstance(node, ast.If) for inner in ast.walk(node)}
    for node in ast.walk(module):
        if id(node) in typing:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    distributions = packages_distributions()
    others = {name for name in names if name not in sys.stdlib_module_names and name not in ("apex_ml", "__future__")}
    return {(distributions.get(name) or [name])[0].lower() for name in others}


@pytest.mark.parametrize("name", candidate_names())
def test_a_candidate_requires_what_it_imports(name: str) -> None:
    module = ast.parse((FOLDER / f"{name}.py").read_text(encoding="utf-8"))
    required = set(map(distribution, declared(name, "requirements", ())))
    assert imported(module) <= {*OF_EVERY_MODEL, *required}
    assert required <= imported(module)
    if not missing_requirements(name):
        assert candidate(name).name == name


@pytest.mark.parametrize("name", ["xgboost", "lightgbm", "logistic", "prior"])
def test_the_requirements_have_exact_versions(name: str) -> None:
    if name == "lightgbm":
        pytest.importorskip("lightgbm", reason="the extra lightgbm is not installed")
    packages = {*OF_EVERY_MODEL, *([name] if name in ("xgboost", "lightgbm") else [])}
    assert pins(name) == [f"{package}=={version(package)}" for package in sorted(packages)]


def test_a_model_without_trees_loads_without_their_libraries(tmp_path: Path) -> None:
    """Loading imports only the packages of every model: the environment has no others."""
    text = SCORES.format(refused={"xgboost", "lightgbm", "duckdb", "psycopg2", "httpx", "optuna"}, name="logistic")
    done = subprocess.run([sys.executable, "-c", text], cwd=CODE_ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


CANDIDATE_FILE = """
import json

import numpy as np

from apex_ml.core.candidates.interface import Candidate, Fitted


class Even:
    def __init__(self, classes):
        self.classes = classes

    def predict(self, x):
        return np.full((len(x), self.classes), 1 / self.classes, np.float32)


class EvenShares(Candidate):
    name = "even"
    file = "even.json"
    requirements = ("numpy", "an-absent-library>=2")

    def fit(self, params, train, validation, context):
        return Fitted(json.dumps(len(context.classes)).encode(), params, {})

    def load(self, content):
        return Even(json.loads(content))


CANDIDATE = EvenShares()
"""


@pytest.fixture
def folder_of_candidates(tmp_path: Path) -> Iterator[Path]:
    """A temporary folder of candidate modules, which Apex finds like its own."""
    candidates.__path__.append(str(tmp_path))
    yield tmp_path
    candidates.__path__.remove(str(tmp_path))
    sys.modules.pop("apex_ml.core.candidates.even", None)
    candidate.cache_clear()


def test_one_file_adds_a_candidate(folder_of_candidates: Path) -> None:
    file = folder_of_candidates / "even.py"
    file.write_text(CANDIDATE_FILE)
    assert "even" in candidate_names() and check_candidates(("even", "xgboost")) == ("even", "xgboost")
    assert image_requirements() == ["an-absent-library>=2", "numpy", "xgboost"]
    with pytest.raises(ConfigError, match="the candidate even needs an-absent-library>=2: pip install 'an-absent-lib"):
        candidate("even")
    file.write_text(CANDIDATE_FILE.replace(', "an-absent-library>=2"', ","))
    added = candidate("even")
    context = FitContext(("a", "b"), ())
    part = Part(np.zeros((3, 1), np.float32), np.array([0, 1, 0]))
    fitted = added.fit(added.defaults(context), part, part, context)
    model = Model(Encoder(()), fitted.content, ("a", "b"), INFO, candidate="even")
    assert Model.from_files(model.to_files()).candidate == "even"
    assert added.load(fitted.content).predict(part.x).tolist() == [[0.5, 0.5]] * 3
    assert f"numpy=={version('numpy')}" in pins("even")


def test_the_extra_of_a_candidate_is_its_requirement() -> None:
    extras = tomllib.loads((CODE_ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for name in set(extras) & set(candidate_names()):
        assert extras[name] == list(declared(name, "requirements", ()))
