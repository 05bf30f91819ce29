"""The chain on the real files: the known counts, and a model close to the optimum of the process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from apex_ml.contract.model import Contract
from apex_ml.core.evaluation import row_losses
from apex_ml.services.holdout import class_indexes
from apex_ml.settings import Settings
from apex_ml.steps.elt import elt
from apex_ml.steps.split import split
from apex_ml.steps.validate import validate
from tests.support.apex_home import Apex

KNOWN_BY = "madurez_digital_cd"


def frequency_table_loss(contract: Contract, folder: Path, part: str) -> float:
    """Log loss on a part of the class shares of each digital maturity, counted on the training rows."""
    train, evaluated = (pq.read_table(folder / f"{name}.parquet") for name in ("train", part))
    y, yv = (class_indexes(t, contract.target, contract.classes) for t in (train, evaluated))
    observed, requested = (np.array(t[KNOWN_BY].to_pylist()) for t in (train, evaluated))
    shares = {
        level: np.bincount(y[observed == level], minlength=len(contract.classes)) / (observed == level).sum()
        for level in contract.columns[KNOWN_BY].domain.levels  # type: ignore[union-attr]
    }
    return float(row_losses(np.array([shares[level] for level in requested]), yv).mean())


@pytest.mark.real
def test_the_chain_on_the_real_files(
    real_raw: Path, lasting_databases: Any, mlflow_server: str, tmp_path: Path, contract: Contract
) -> None:
    settings = Settings.load(
        home=tmp_path, raw_url=str(real_raw), mlflow_tracking_uri=mlflow_server, **lasting_databases.migrated()
    )
    apex = Apex(settings.with_pipeline_values(model__name="real"))
    context = apex.context("real")
    content = validate(context, raw=None, as_of=None, force=False).to_json()
    assert (content["files"], content["rows"], content["quarantined"]) == (8, 1_250_000, 0)
    assert content["newest"] == "2024-08-23"
    created = elt(context).to_json()
    assert (created["rows"], created["repeated"], created["examples"]) == (1_250_000, 0, 149_960)

    random = split(context, strategy="stratified_random").to_json()
    assert [p["examples"] for p in random["parts"].values()] == [89_976, 29_992, 29_992]
    assert not random["promotable"]

    split(context, strategy="temporal")
    done = apex.call("train", "--run", "real")
    assert done.code == 0, done.err
    assert done.result is not None
    for part in ("validation", "test"):
        table_loss = frequency_table_loss(contract, context.output("split"), part)
        assert 0.975 < done.result[f"{part}_log_loss"] <= 1.002 * table_loss
        assert done.result[f"{part}_log_loss"] < done.result[f"{part}_prior_log_loss"] - 0.02
    assert done.result["test_ece"] <= 0.01
    assert done.result["features"] == [KNOWN_BY]
