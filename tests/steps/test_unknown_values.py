"""A drop with unknown values is scored, and raises an alert immediately."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from apex_ml.adapters.postgres.bulk import bulk_transaction
from apex_ml.contract.model import Contract
from apex_ml.core.unknown_values import unknown_jumps
from apex_ml.services.scorer import load_scorer
from apex_ml.services.unknown_values import alert_unknown_values
from apex_ml.steps.monitor import monitor
from apex_ml.steps.score import rescore
from tests.support.apex_home import Apex
from tests.support.ledger import ROWS, run
from tests.support.schema import SCHEMA

Put = Callable[..., Path]


def replaced(name: str, values: Callable[[list[Any]], list[Any]]) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        place = table.schema.get_field_index(name)
        column = pa.array(values(table.column(name).to_pylist()), table.schema.field(name).type)
        return table.set_column(place, name, column)

    return change


def open_alerts(apex: Apex) -> list[tuple[str, str, str]]:
    return apex.sql("SELECT kind, subject, message FROM orders.open_alerts ORDER BY alert_id")


@pytest.fixture
def attribute(contract: Contract) -> str:
    """An attribute for which the row checks accept any value."""
    return next(n for n in contract.features.attributes if n == "pais_cd")


def test_unknown_values_raise_an_alert_with_details(
    scoring: Apex, put_drop: Put, attribute: str, caplog: pytest.LogCaptureFixture
) -> None:
    put_drop(changed=replaced(attribute, lambda values: [f"X\x00\u200b{v}" for v in values]))
    with caplog.at_level(logging.ERROR):
        result = run(scoring)
    assert (result["scored"], result["rows_scored"], result["with_alert"]) == (1, ROWS, 1)
    ((kind, subject, message),) = open_alerts(scoring)
    assert (kind, subject) == ("unknown_values", "a.parquet")
    assert f"drop a.parquet ({ROWS} rows): 100.0% of {attribute} is unknown to the model, 0.0% in training" in message
    assert "\\x00" in message and "\\u200b" in message and "\x00" not in message
    for remedy in ("deliver a corrected file under the same name", "`normalise`", "apex -p orders retrain --force"):
        assert remedy in message
    assert result["drops"][0]["alert"] == message and message in caplog.text
    assert scoring.sql("SELECT input_alert FROM orders.drop_summary") == [(message,)]


def test_a_column_of_nulls_raises_an_alert(scoring: Apex, put_drop: Put, contract: Contract) -> None:
    name = contract.features.attributes[0]
    put_drop(changed=replaced(name, lambda values: [None] * len(values)))
    assert run(scoring)["with_alert"] == 1
    ((_, _, message),) = open_alerts(scoring)
    assert f"100.0% of {name} is null, 0.0% in training" in message


def test_renamed_clients_raise_an_alert_with_both_names(scoring: Apex, put_drop: Put, contract: Contract) -> None:
    """The model of these tests uses no history: here it is given one feature of it."""
    feature = "history_days_since_last"
    scorer = load_scorer(scoring.context("s"))
    bins = scorer.model.info.profile.bins_for({feature})
    path = put_drop(changed=replaced(contract.entity, lambda values: [f"C9{v[2:]}" for v in values]))
    counts = {feature: np.array([0] * (len(bins[feature]) - 1) + [ROWS])}
    with duckdb.connect() as con, bulk_transaction(scoring.settings, SCHEMA) as session:
        drop = f"SELECT * FROM read_parquet('{path}')"
        reported = alert_unknown_values(replace(scorer, bins=bins), con, session, counts, drop, path.name)
    ((_, _, message),) = open_alerts(scoring)
    assert reported == message and f"100.0% of the rows have no history of their {contract.entity}" in message
    assert (
        "most frequent without history: 'C9" in message and "the history snapshot holds values such as 'C0" in message
    )


def test_healthy_drops_raise_no_alert(scoring: Apex, put_drop: Put, attribute: str) -> None:
    put_drop("healthy.parquet")
    put_drop("few.parquet", seed=2, changed=replaced(attribute, lambda values: ["QQ"] * 10 + values[10:]))
    put_drop("tiny.parquet", seed=3, rows=1, changed=replaced(attribute, lambda values: ["QQ"]))
    result = run(scoring, "healthy.parquet", "few.parquet", "tiny.parquet")
    assert (result["scored"], result["with_alert"]) == (3, 0)
    assert open_alerts(scoring) == []


def test_many_tiny_drops_are_tested_together(scoring: Apex, put_drop: Put, attribute: str) -> None:
    names = [f"{n}.parquet" for n in range(4)]
    for seed, name in enumerate(names):
        put_drop(name, seed=seed, rows=1, changed=replaced(attribute, lambda values: ["QQ"]))
    assert run(scoring, *names)["with_alert"] >= 1
    ((kind, subject, message),) = open_alerts(scoring)  # one, however many drops
    assert (kind, subject) == ("unknown_values", "small drops, version 1") and "'QQ' (1)" in message
    put_drop("good.parquet", seed=9, rows=5)
    run(scoring, "good.parquet")
    monitor(scoring.but(drift_min_rows=100).context("look"))
    assert open_alerts(scoring) == []


def test_a_corrected_or_rescored_drop_resolves_the_alert(scoring: Apex, put_drop: Put, attribute: str) -> None:
    put_drop(changed=replaced(attribute, lambda values: ["QQ"] * len(values)))
    run(scoring)
    assert len(open_alerts(scoring)) == 1
    assert "alert" in rescore(scoring.context("again"), "a.parquet").to_json()["drops"][0]
    assert len(open_alerts(scoring)) == 1  # about the newest scoring
    put_drop()
    run(scoring)
    assert open_alerts(scoring) == []


@pytest.mark.parametrize(
    ("observed", "usual", "kind", "jump"),
    [
        ([0, 0, 3, 0], [900, 100, 0, 0], "attribute", True),
        ([0, 0, 1, 0], [900, 100, 0, 0], "attribute", False),  # may be chance
        ([960, 0, 40, 0], [900, 100, 0, 0], "attribute", False),  # too few to matter immediately
        ([900, 0, 0, 100], [900, 100, 0, 0], "attribute", True),
        ([500, 0, 0, 500], [500, 0, 0, 500], "attribute", False),  # as in training
        ([1000, 0, 0, 0], [500, 0, 0, 500], "attribute", False),  # fewer nulls are none
        ([60, 0, 0, 40], [95, 0, 0, 5], "history", False),  # many new clients
        ([0, 0, 0, 100], [20, 0, 0, 80], "history", True),  # not one is known
        ([0, 0, 0, 0], [900, 100, 0, 0], "attribute", False),
    ],
)
def test_the_definition_of_a_jump(observed: list[int], usual: list[int], kind: str, jump: bool) -> None:
    result = unknown_jumps({"a": observed}, [{"a": [100 * n for n in usual]}], {"a": kind}, {"a": True}, alpha=0.002)
    assert bool(result) is jump


def test_values_known_before_the_training_are_no_jump() -> None:
    settled = {"a": [700, 0, 0, 300]}
    usual = {"a": [10_000, 0, 0, 0]}
    result = unknown_jumps({"a": [70, 0, 0, 30]}, [usual, settled], {"a": "attribute"}, {"a": True}, alpha=0.002)
    assert result == []
