"""Levels with names: the data keeps its values; models, tables, answers and outcomes have the names."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from apex_ml.steps.monitor import monitor
from apex_ml.steps.outcomes import outcomes
from apex_ml.steps.score import score
from apex_ml.steps.validate import validate
from tests.support.loans import NAME, NEWEST, PIPELINE, Trained, loans, requested, train_loans
from tests.support.online_service import served

TEXT = (
    PIPELINE.replace("levels: [false, true]", 'levels: {false: lost, true: "paid back"}')
    .replace("levels: [1, 2, 3]", "levels: {1: small, 2: middle, 3: large}")
    .replace("actual: false, predicted: true", 'actual: lost, predicted: "paid back"')
    .replace("actual: true, predicted: false", 'actual: "paid back", predicted: lost')
)
CLASSES = {"lost", "paid back"}


@pytest.fixture(scope="module")
def trained(lasting_databases: Any, mlflow_server: str, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train_loans(tmp_path_factory.mktemp(NAME), lasting_databases.migrated(), mlflow_server, TEXT)


def test_a_model_learns_the_names(trained: Trained) -> None:
    folder = trained.apex.processed / "first"
    examples = pq.read_table(folder / "elt" / "examples.parquet")
    assert set(examples.column("repaid").to_pylist()) == CLASSES
    assert set(examples.column("rooms").to_pylist()) == {"small", "middle", "large"}
    assert set(examples.column("history_last_repaid").drop_null().to_pylist()) == CLASSES
    accepted = pq.read_table(folder / "validate" / "accepted")
    assert set(accepted.column("repaid").to_pylist()) == {False, True}
    assert set(accepted.column("rooms").to_pylist()) == {1, 2, 3}
    assert trained.results["promote"]["promoted"], trained.results["promote"]
    assert set(trained.results["split"]["parts"]["train"]["classes"]) == CLASSES


def test_a_drop_and_a_request_are_answered_by_name(trained: Trained) -> None:
    apex = trained.apex
    drop = loans(200, seed=9, day=NEWEST).set_column(0, "borrower", pa.array(range(200)))
    pq.write_table(drop, apex.inbox / "a.parquet")
    assert score(apex.context("scoring"), ["a.parquet"]).to_json()["rows_scored"] == 200
    stored = apex.sql('SELECT predicted, p_lost, "p_paid_x20_back" FROM loans.scored_current ORDER BY row_nr')
    assert {predicted for predicted, *_ in stored} == CLASSES
    row = requested(drop.slice(0, 1).to_pylist()[0])
    with served(apex) as client:
        answer = client.post(f"/{NAME}/predict", json={"rows": [row, row | {"rooms": 7}]})
        assert answer.status_code == 200, answer.text
        one, odd = answer.json()["predictions"]
        assert one["probabilities"] == pytest.approx({"lost": stored[0][1], "paid back": stored[0][2]}, abs=1e-7)
        assert "domain: one of 1 (small), 2 (middle), 3 (large)" in str(odd)
        schema = client.get(f"/{NAME}/openapi.json").json()["components"]["schemas"]["Row"]["properties"]["rooms"]
        assert "One of 1 (small), 2 (middle), 3 (large)" in schema["description"]
    monitor(apex.context("monitoring"))
    known = drop.append_column("repaid", pa.array([n % 2 == 0 for n in range(200)]))
    pq.write_table(known, apex.processed.parent / "raw" / "later.parquet")
    context = apex.context("later")
    validate(context, raw=None, as_of=None, force=False)
    assert outcomes(context).to_json()["matched"] == 200
    assert {value for (value,) in apex.sql("SELECT DISTINCT observed FROM loans.outcomes")} == CLASSES
