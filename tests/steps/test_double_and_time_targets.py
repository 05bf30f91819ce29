"""Targets of type double and timestamp with named classes, from the raw file to outcomes and the answer of the API."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from apex_ml.steps.outcomes import outcomes
from apex_ml.steps.score import score
from apex_ml.steps.validate import validate
from tests.support.loans import NAME, NEWEST, PIPELINE, Trained, loans, requested, train_loans
from tests.support.online_service import served

MORNING, EVENING = datetime(2024, 1, 1, 8), datetime(2024, 1, 1, 20)
TARGETS: dict[str, tuple[str, str, Any, Any, pa.DataType]] = {
    "double": ("double", "{0.1: lost, 0.30000000000000004: kept}", 0.1, 0.1 + 0.2, pa.float64()),
    "timestamp": (
        "timestamp, timezone: Europe/Madrid",
        "{2024-01-01 09:00: lost, 2024-01-01 21:00: kept}",  # on the clock of Madrid; the files hold UTC
        MORNING,
        EVENING,
        pa.timestamp("ms", "UTC"),
    ),
}
CLASSES = {"lost", "kept"}


@pytest.fixture(scope="module", params=TARGETS)
def trained(
    request: pytest.FixtureRequest, lasting_databases: Any, mlflow_server: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Trained, str]:
    kind, levels, *_ = TARGETS[request.param]
    text = (
        PIPELINE.replace("type: boolean\n    role: target", f"type: {kind}\n    role: target".replace(", ", "\n    "))
        .replace("levels: [false, true]", f"levels: {levels}")
        .replace("actual: false, predicted: true", "actual: lost, predicted: kept")
        .replace("actual: true, predicted: false", "actual: kept, predicted: lost")
    )

    def edit(table: pa.Table) -> pa.Table:
        return with_target(request.param, table, table.column("repaid"))

    folder = tmp_path_factory.mktemp(NAME)
    return train_loans(folder, lasting_databases.migrated(), mlflow_server, text, edit), request.param


def with_target(name: str, table: pa.Table, repaid: pa.ChunkedArray) -> pa.Table:
    """The table with the target as values of the type."""
    _, _, lost, kept, kind = TARGETS[name]
    values = pc.if_else(repaid, pa.scalar(kept, kind), pa.scalar(lost, kind))
    rest = [column for column in table.column_names if column != "repaid"]
    return table.select(rest).append_column("repaid", values)


def test_the_classes_have_their_names_from_training_to_outcomes(trained: tuple[Trained, str]) -> None:
    done, name = trained
    apex = done.apex
    examples = pq.read_table(apex.processed / "first" / "elt" / "examples.parquet")
    assert set(examples.column("repaid").to_pylist()) == CLASSES
    assert set(examples.column("history_last_repaid").drop_null().to_pylist()) == CLASSES
    assert done.results["validate"]["accepted"] == 4000 and done.results["promote"]["promoted"]
    drop = loans(200, seed=9, day=NEWEST).set_column(0, "borrower", pa.array(range(200)))
    pq.write_table(drop, apex.inbox / "a.parquet")
    assert score(apex.context("scoring"), ["a.parquet"]).to_json()["rows_scored"] == 200
    stored = apex.sql("SELECT predicted, p_lost, p_kept FROM loans.scored_current ORDER BY row_nr")
    assert {predicted for predicted, *_ in stored} == CLASSES
    row = requested(drop.slice(0, 1).to_pylist()[0])
    with served(apex) as client:
        answer = client.post(f"/{NAME}/predict", json={"rows": [row]})
        assert answer.status_code == 200, answer.text
        probabilities = answer.json()["predictions"][0]["probabilities"]
        assert probabilities == pytest.approx({"lost": stored[0][1], "kept": stored[0][2]}, abs=1e-7)
    later = with_target(name, drop, pa.chunked_array([pa.array([n % 2 == 0 for n in range(200)])]))
    pq.write_table(later, apex.processed.parent / "raw" / "later.parquet")
    context = apex.context("later")
    validate(context, raw=None, as_of=None, force=False)
    assert outcomes(context).to_json()["matched"] == 200
    assert {value for (value,) in apex.sql("SELECT DISTINCT observed FROM loans.outcomes")} == CLASSES
    other = loans(3, seed=10, day=NEWEST).set_column(0, "borrower", pa.array(range(1000, 1003)))
    pq.write_table(with_target(name, other, pa.chunked_array([[True, False, None]])), apex.inbox / "b.parquet")
    assert score(apex.context("again"), ["b.parquet"]).to_json()["rows_scored"] == 3
    known = apex.sql(
        "SELECT borrower, observed FROM loans.outcomes JOIN loans.scored USING (run_id, row_nr) WHERE borrower >= 1000"
        " ORDER BY 1"
    )
    assert known == [(1000, "kept"), (1001, "lost")]
