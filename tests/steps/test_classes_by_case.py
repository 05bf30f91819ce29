"""Classes that differ by case alone, from the raw file to outcomes, quality, shadow and the answer of the API."""

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
    PIPELINE.replace("type: boolean\n    role: target", "type: string\n    role: target")
    .replace("levels: [false, true]", "levels: ['Yes', 'yes']")
    .replace("actual: false, predicted: true", "actual: 'Yes', predicted: 'yes'")
    .replace("actual: true, predicted: false", "actual: 'yes', predicted: 'Yes'")
    .replace("{recipe: last_target}", "{recipe: last_target}\n    - {recipe: target_trend, level: 'yes', shrinkage: 1}")
)
CLASSES = {"Yes", "yes"}


def as_text(table: pa.Table) -> pa.Table:
    """The table with the class yes for a loan that was repaid, and Yes for another one."""
    place = table.schema.get_field_index("repaid")
    repaid = ["yes" if value else "Yes" for value in table.column(place).to_pylist()]
    return table.set_column(place, "repaid", pa.array(repaid))


@pytest.fixture(scope="module")
def trained(lasting_databases: Any, mlflow_server: str, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train_loans(tmp_path_factory.mktemp(NAME), lasting_databases.migrated(), mlflow_server, TEXT, as_text)


def test_each_class_has_a_column_of_its_own_from_training_to_quality(trained: Trained) -> None:
    apex = trained.apex
    examples = pq.read_table(apex.processed / "first" / "elt" / "examples.parquet")
    assert set(examples.column("repaid").to_pylist()) == CLASSES
    assert {"history_share_Yes", "history_share_yes_2", "history_trend_yes_2"} <= set(examples.column_names)
    later = examples.filter(pa.compute.greater(examples.column("history_rows"), 0))
    shares = [later.column(name).to_numpy() for name in ("history_share_Yes", "history_share_yes_2")]
    assert shares[0] + shares[1] == pytest.approx(1) and 0 < shares[0].mean() < shares[1].mean()
    assert trained.results["promote"]["promoted"], trained.results["promote"]
    drop = loans(200, seed=9, day=NEWEST).set_column(0, "borrower", pa.array(range(200)))
    pq.write_table(drop, apex.inbox / "a.parquet")
    assert score(apex.context("scoring"), ["a.parquet"]).to_json()["rows_scored"] == 200
    stored = apex.sql("SELECT predicted, p_yes, p_yes_2 FROM loans.scored_current ORDER BY row_nr")
    # as the costs say: a loan that is not repaid costs four times as much
    assert [row[0] for row in stored] == ["yes" if row[2] > 4 * row[1] else "Yes" for row in stored]
    assert {row[0] for row in stored} == CLASSES
    row = requested(drop.slice(0, 1).to_pylist()[0])
    with served(apex) as client:
        answer = client.post(f"/{NAME}/predict", json={"rows": [row]})
        assert answer.status_code == 200, answer.text
        probabilities = answer.json()["predictions"][0]["probabilities"]
        assert probabilities == pytest.approx({"Yes": stored[0][1], "yes": stored[0][2]}, abs=1e-7)
    repaid = [predicted == "yes" for predicted, *_ in stored]
    known = as_text(drop.append_column("repaid", pa.array(repaid)))
    pq.write_table(known, apex.processed.parent / "raw" / "later.parquet")
    context = apex.context("later")
    validate(context, raw=None, as_of=None, force=False)
    assert outcomes(context).to_json()["matched"] == 200
    assert {value for (value,) in apex.sql("SELECT DISTINCT observed FROM loans.outcomes")} == CLASSES
    monitor(apex.context("monitoring"))
    ((accuracy,),) = apex.sql("SELECT accuracy FROM loans.model_quality_weekly")
    assert accuracy == 1
