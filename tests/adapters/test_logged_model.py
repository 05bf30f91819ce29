"""A model that is logged in MLflow lists the packages of its kind and can be loaded from there."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from apex_ml.adapters.mlflow.tracking import OF_EVERY_MODEL, TrainingRecord, log_and_register
from apex_ml.contract.feature_column import FeatureColumn
from apex_ml.core.candidates import candidate, distribution
from apex_ml.core.development import Options, develop
from apex_ml.core.examples import Examples
from apex_ml.pipelines import load_pipeline
from tests.support.model_infos import INFO

COLUMNS = (FeatureColumn("ripeness", "categorical", ("low", "high")), FeatureColumn("amount", "numeric"))


def examples(rows: int, seed: int) -> Examples:
    random = np.random.default_rng(seed)
    ripeness = random.choice(["low", "high"], rows)
    y = (random.random(rows) < np.where(ripeness == "high", 0.8, 0.3)).astype(np.int64)
    return Examples(pa.table({"ripeness": ripeness, "amount": random.normal(0, 1, rows)}), y, np.arange(rows))


@pytest.mark.parametrize("name", ["prior", "lightgbm"])
def test_the_environment_of_a_logged_model_lists_the_packages_of_its_kind(
    name: str, mlflow_server: str, home: Any, tmp_path: Path
) -> None:
    import mlflow
    import pandas as pd

    if name == "lightgbm":
        pytest.importorskip("lightgbm", reason="the extra lightgbm is not installed")
    parts = {part: examples(1_000, seed) for seed, part in enumerate(("train", "validation", "test"))}
    options = Options(contenders=(name,), selection="none", threads=1)
    model = develop(parts, COLUMNS, ("a", "b"), (), options, INFO).model
    assert model.candidate == name
    (tmp_path / "artifacts").mkdir()
    record = TrainingRecord(
        name="r",
        params={},
        metrics={},
        curves={},
        trials=(),
        tags={},
        data_source=str(tmp_path),
        data_sha256="0" * 64,
        description="",
        sample=pd.DataFrame({"amount": [1.0]}),
        artifacts=tmp_path / "artifacts",
        pages={"Training report": "report.html"},
    )
    settings = home(mlflow_tracking_uri=mlflow_server, model_name=f"logged {name}")
    model_name = load_pipeline(settings).model_name
    before = mlflow.get_tracking_uri()
    try:
        registered = log_and_register(settings, "orders", model_name, model, record)
        uri = f"models:/{model_name}/{registered.version}"
        described = mlflow.MlflowClient().get_model_version(model_name, str(registered.version)).description
        listed = Path(mlflow.artifacts.download_artifacts(f"{uri}/requirements.txt")).read_text().splitlines()
        rows = pd.DataFrame({"ripeness": ["low", "high"], "amount": [0.0, 1.0]})
        predicted = mlflow.pyfunc.load_model(uri).predict(rows)
    finally:
        mlflow.set_tracking_uri(before)
    packages = {*OF_EVERY_MODEL, *map(distribution, candidate(name).requirements)}
    assert {f"{package}=={version(package)}" for package in packages} <= set(listed)
    assert any(line.startswith("lightgbm==") for line in listed) == (name == "lightgbm")
    assert len(predicted) == 2
    run = f"/#/experiments/{registered.experiment_id}/runs/{registered.run_id}"
    assert f"[Training report]({mlflow_server}{run}/artifacts/report.html)" in described
