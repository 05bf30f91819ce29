"""Simulated raw data with its true probabilities: training reports the distance from the optimum."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from apex_ml.cli.simulate import simulate
from apex_ml.contract.model import Contract
from apex_ml.core.estimator import Model
from apex_ml.core.evaluation import row_losses
from apex_ml.services.holdout import class_indexes
from apex_ml.settings import Settings
from apex_ml.simulate.process import load_process
from apex_ml.simulate.process_columns import Choice, Target
from apex_ml.steps.elt import elt
from apex_ml.steps.split import split
from apex_ml.steps.validate import validate
from tests.support.apex_home import Apex


def test_the_excess_over_the_optimum_is_reported(
    lasting_databases: Any, mlflow_server: str, tmp_path: Path, contract: Contract
) -> None:
    raw = tmp_path / "orders"
    arguments = ["--out", str(raw), "--orders", "20000", "--clients", "4000", "--seed", "2", "--truth"]
    CliRunner().invoke(simulate, arguments, catch_exceptions=False)
    settings = Settings.load(
        home=tmp_path / "home",
        raw_url=str(tmp_path / "elsewhere"),
        mlflow_tracking_uri=mlflow_server,
        model_name="with_truth",
        threads=1,
        **lasting_databases.migrated(),
    )
    apex = Apex(settings)
    context = apex.context("known")
    # the folder that was checked counts, not the one in the settings
    validate(context, raw=str(raw), as_of=None, force=False)
    elt(context)
    split(context, strategy="temporal")
    done = apex.call("train", "--run", "known")
    assert done.code == 0 and done.result is not None, done.err

    test = pq.read_table(context.output("split") / "test.parquet")
    y = class_indexes(test, contract.target, contract.classes)
    process = load_process()
    table = process.named(Target)[process.target].table
    assert set(table) == set(process.named(Choice)[process.given].levels)
    best = np.array([[table[v][c] for c in contract.classes] for v in test.column(process.given).to_pylist()])
    bundle = context.output("train") / "bundle"
    p = Model.from_files({f.name: f.read_bytes() for f in bundle.iterdir()}).probabilities(test).astype(float)
    metrics = json.loads((context.output("train") / "report" / "evaluation.json").read_text())["metrics"]
    optimum = row_losses(best, y).mean()
    assert metrics["test_optimum_rows"] == len(y)
    assert metrics["test_optimum_log_loss"] == pytest.approx(optimum, abs=1e-9)
    assert metrics["test_truth_log_loss"] == pytest.approx(optimum, abs=1e-9)
    excess = 100 * (row_losses(p, y).mean() / optimum - 1)
    assert done.result["test_excess_percent"] == pytest.approx(excess, abs=1e-6)
    divergence = (best * np.log(best / p)).sum() / -(best * np.log(best)).sum()
    assert metrics["test_expected_excess_percent"] == pytest.approx(100 * divergence, abs=1e-6)
    assert 0 < metrics["test_expected_excess_percent"] < 3
    assert metrics["test_excess_percent_low"] < excess < metrics["test_excess_percent_high"]
    page = (context.output("train") / "report" / "report.html").read_text()
    assert "The best possible log loss" in page and "SHAP values" in page

    # the file taken away, the same step is another one, without the comparison
    (tmp_path / "orders.truth.parquet").unlink()
    second = apex.call("train", "--run", "known")
    assert second.code == 0 and second.result is not None, second.err
    assert "test_optimum_log_loss" not in second.result
    assert second.result["test_log_loss"] == done.result["test_log_loss"]
