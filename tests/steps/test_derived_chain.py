"""Derived columns, as date, target and feature, from the raw file to the scored row and the answer of the API."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from apex_ml.adapters.duckdb.split_rows import HELD_ROWS
from apex_ml.steps.monitor import monitor
from apex_ml.steps.outcomes import outcomes
from apex_ml.steps.score import score
from apex_ml.steps.validate import validate
from tests.support.loans import NAME, NEWEST, Trained, changed, loans, train_loans
from tests.support.online_service import served

SOURCE = {"description": "A part.", "type": "int64", "role": "ignore"}
LATER = {"required": {"train": True, "score": False}, "nullable": {"train": False, "score": True}}
TEXT = changed(
    columns={
        "year": SOURCE,
        "month": SOURCE,
        "dom": SOURCE,
        "missed": SOURCE | LATER,
        "day": {"derive": "make_date(year, month, dom)"},
        "repaid": {"derive": "missed = 0", "required": None},
        "dear": {
            "description": "Whether the rate is high.",
            "type": "string",
            "role": "attribute",
            "derive": "CASE WHEN rate > 5 THEN 'dear' ELSE 'cheap' END",
            "domain": {"levels": ["cheap", "dear"], "closed": True},
        },
        "weekday": {
            "description": "Name of the day.",
            "type": "string",
            "role": "passthrough",
            "derive": "dayname(make_date(year, month, dom))",
        },
    },
    features={"attributes": ["member", "rate", "asked_at", "rooms", "dear"]},
)


def with_parts(table: pa.Table) -> pa.Table:
    """Loans with the parts of their days, and the missed payments, instead of days and classes."""
    day = table.column("day")
    parts = {"year": pc.year(day), "month": pc.month(day), "dom": pc.day(day)}
    if "repaid" in table.column_names:
        parts["missed"] = pc.if_else(table.column("repaid"), 0, 3)
        table = table.drop_columns(["repaid"])
    for name, values in parts.items():
        table = table.append_column(name, values.cast(pa.int16()))
    return table.drop_columns(["day"])


def with_bad_days(table: pa.Table) -> pa.Table:
    """Twenty rows on the 31st of April."""
    table = with_parts(table)
    bad = np.arange(len(table)) < 20
    april = table.set_column(table.schema.get_field_index("month"), "month", pa.array(np.where(bad, 4, table["month"])))
    return april.set_column(april.schema.get_field_index("dom"), "dom", pa.array(np.where(bad, 31, april["dom"])))


@pytest.fixture(scope="module")
def trained(lasting_databases: Any, mlflow_server: str, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp(NAME)
    return train_loans(folder, lasting_databases.migrated(), mlflow_server, TEXT, with_bad_days)


def test_a_model_is_trained_and_promoted(trained: Trained) -> None:
    assert trained.results["validate"]["accepted"] == 3980 and trained.results["validate"]["quarantined"] == 20
    assert trained.results["promote"]["promoted"], trained.results["promote"]
    examples = pq.read_table(trained.apex.processed / "first" / "elt" / "examples.parquet")
    assert set(examples.column("repaid").to_pylist()) == {"false", "true"}
    assert set(examples.column("dear").to_pylist()) == {"cheap", "dear"}
    rows = trained.apex.sql("SELECT value, rule FROM loans.quarantine WHERE column_name = 'day'")
    assert {value for value, _ in rows} == {"2024 / 4 / 31"}
    assert all(rule.startswith("derive: make_date(year, month, dom) fails") for _, rule in rows)


def test_a_drop_is_scored_and_monitored_and_its_outcomes_are_found(trained: Trained) -> None:
    apex = trained.apex
    drop = loans(200, seed=9, day=NEWEST).set_column(0, "borrower", pa.array(range(200)))
    pq.write_table(with_parts(drop), apex.inbox / "a.parquet")
    result = score(apex.context("scoring"), ["a.parquet"]).to_json()
    assert result["rows_scored"] == 200, result
    rows = apex.sql("SELECT DISTINCT day, weekday FROM loans.scored_current")
    assert rows == [(NEWEST, f"{NEWEST:%A}")]
    monitor(apex.context("monitoring"))
    known = drop.append_column("repaid", pa.array([n % 2 == 0 for n in range(200)]))
    known = known.append_column("cost", pa.nulls(200, pa.decimal128(18, 2)))
    pq.write_table(with_parts(known), apex.processed.parent / "raw" / "later.parquet")
    context = apex.context("later")
    validate(context, raw=None, as_of=None, force=False)
    assert outcomes(context).to_json()["matched"] == 200


def test_the_api_answers_what_a_drop_is_scored(trained: Trained) -> None:
    day = date(2024, 4, 30)
    assert day == NEWEST
    row = {"borrower": 10**9, "year": 2024, "month": 4, "dom": 30, "member": True, "rate": "5.500", "rooms": 3}
    row |= {"asked_at": f"{day}T11:00:00+02:00"}
    with served(trained.apex) as client:
        answer = client.post(f"/{NAME}/predict", json={"rows": [row, row | {"rate": "4.5"}]})
        assert answer.status_code == 200, answer.text
        one, other = (p["probabilities"]["true"] for p in answer.json()["predictions"])
        refused = client.post(f"/{NAME}/predict", json={"rows": [row | {"dom": 31}, row | {"day": "2024-04-30"}]})
        assert refused.status_code == 422
        faults = [(fault["path"], fault["value"]) for fault in refused.json()["faults"]]
        assert faults == [
            ("rows[0].day", "2024 / 4 / 31"),
            ("rows[0].weekday", "2024 / 4 / 31"),
            ("rows[1].day", "'2024-04-30'"),
        ]
        schema = client.get(f"/{NAME}/openapi.json").json()["components"]["schemas"]["Row"]["properties"]
        assert "year" in schema and "day" not in schema and "dear" not in schema
    drop = with_parts(loans(2, day=day))
    asked_at = datetime(2024, 4, 30, 9, tzinfo=UTC)
    cells = {"borrower": [10**9, 10**9 + 1], "member": [True] * 2, "rooms": [3, 3], "asked_at": [asked_at] * 2}
    for name, values in cells.items():
        place = drop.schema.get_field_index(name)
        drop = drop.set_column(place, name, pa.array(values, drop.schema.field(name).type))
    rates = pa.array(["5.500", "4.500"]).cast(pa.decimal128(9, 3))
    drop = drop.set_column(drop.schema.get_field_index("rate"), "rate", rates)
    pq.write_table(drop, trained.apex.inbox / "same.parquet")
    score(trained.apex.context("scoring"), ["same.parquet"])
    stored = trained.apex.sql("SELECT p_true FROM loans.scored WHERE borrower >= 1000000000 ORDER BY borrower")
    assert [p for (p,) in stored] == pytest.approx([one, other], abs=1e-7)


def test_the_newest_day_can_be_held_back(trained: Trained) -> None:
    context = trained.apex.context("held")
    result = validate(context, raw=None, as_of=None, force=True, without_newest_day=True)
    assert result.held_back is not None and result.held_back.day is not None
    assert result.held_back.day >= NEWEST - timedelta(days=1)
    (file,) = (trained.apex.processed / "held" / "validate").glob("held*.parquet")
    held = pq.read_table(file)
    assert {"year", "month", "dom"} <= set(held.column_names) and not {"day", "dear", "missed"} & set(held.column_names)
    pq.write_table(held, trained.apex.inbox / "held.parquet")
    assert score(trained.apex.context("scoring"), ["held.parquet"]).to_json()["scored"] == 1


def test_a_large_drop_is_scored(trained: Trained) -> None:
    drop = with_parts(loans(HELD_ROWS + 100, seed=11, day=NEWEST))
    pq.write_table(drop, trained.apex.inbox / "large.parquet")
    result = score(trained.apex.context("scoring"), ["large.parquet"]).to_json()
    assert result["rows_scored"] == HELD_ROWS + 100, result
    query = "SELECT count(*) FROM loans.scored WHERE day = %s AND weekday = %s"
    assert trained.apex.sql(query, (NEWEST, f"{NEWEST:%A}"))[0][0] >= HELD_ROWS + 100
