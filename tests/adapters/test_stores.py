"""What every implementation of the stores of monitoring, outcomes, quarantine and the outbox must do."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from apex_ml.adapters.postgres.drift import DriftSubject
from apex_ml.adapters.postgres.outbox import ClassTotal
from apex_ml.adapters.postgres.outcomes import SCHEMA
from apex_ml.adapters.postgres.quality import ChangedWeek, SustainedVerdict
from apex_ml.adapters.postgres.scoring_runs import ClassFigures
from apex_ml.core.degradation import ClassQuality, WeekQuality
from apex_ml.core.drift import Drift
from tests.support.apex_home import Apex
from tests.support.ledgers import IMPLEMENTATIONS, MODEL, SCHEMAS, STORES, Stores, rows_outside, run_of

A, B = ("a" * 64, "b" * 64)
MONDAY = date(2024, 8, 19)
Opened = Callable[[str], Any]


@pytest.fixture(params=SCHEMAS)
def apex(request: pytest.FixtureRequest, databases: Any, home: Any) -> Iterator[Apex]:
    """A home whose pipeline has the tables of a schema; nothing is written to another schema of the same database."""
    instance = Apex(home(**databases.migrated(request.param)), request.param)
    yield instance
    assert rows_outside(instance) == {}


@pytest.fixture(params=STORES)
def stores(request: pytest.FixtureRequest) -> Stores:
    return STORES[request.param]


def write_runs(apex: Apex, *rows: int, **changes: Any) -> list[int]:
    """Scored drops with as many rows each; the run ids count from 1."""
    ledgers = IMPLEMENTATIONS["psycopg2"]
    with ledgers.begin(apex.settings, apex.schema) as session:
        for run_id, n in enumerate(rows, 1):
            drop_id = ledgers.drops(session).claim(f"{run_id:064x}", f"{run_id}.parquet", 1, n)
            assert drop_id is not None
            classes = {"x": ClassFigures(n, 0.5, 0.25), "y": ClassFigures(0, math.nan, math.nan)}
            ledgers.runs(session).write(
                run_of(run_id, drop_id, rows=n, **changes), classes, f"batch {(run_id + 1) // 2}"
            )
    return list(range(1, len(rows) + 1))


# drift


def drifted(feature: str, **changes: Any) -> tuple[Drift, str, str | None]:
    values: dict[str, Any] = {"rows": 1_000, "reference_rows": 9_000, "psi": 0.25, "effect": 0.5, "p_value": 1e-9}
    drift = Drift(feature, drifted=True, **values | {"q_value": 1e-8, "min_effect": 0.1} | changes)
    return drift, "attribute", "training"


def test_the_verdicts_on_a_subject_are_replaced(apex: Apex, stores: Stores) -> None:
    subject = DriftSubject("drop", "7", MONDAY, 1)
    with stores.begin(apex.settings, apex.schema) as session:
        drift = stores.drift(session)
        drift.lock()
        assert not drift.is_measured("drop", "7")
        drift.write(subject, [drifted("a"), drifted("b", rows=5)])
        drift.write(subject, [drifted("b", rows=6)])
        assert drift.is_measured("drop", "7") and not drift.is_measured("day", "7")
    assert apex.sql("SELECT feature, rows, model_name FROM drift ORDER BY 1") == [
        ("a", 1000, MODEL),
        ("b", 6, MODEL),
    ]
    with stores.begin(apex.settings, apex.schema) as session:
        stores.drift(session).delete("drop", ["6", "7"])
    assert apex.sql("SELECT FROM drift") == []


def test_only_the_newest_subject_of_the_champion_drifts(apex: Apex, stores: Stores) -> None:
    write_runs(apex, 10)
    with stores.begin(apex.settings, apex.schema) as session:
        drift = stores.drift(session)
        drift.write(DriftSubject("day", "2024-08-18", MONDAY - timedelta(1), 1), [drifted("old")])
        drift.write(DriftSubject("day", "2024-08-19", MONDAY, 1), [drifted("a")])
        drift.write(DriftSubject("drop", "1", MONDAY, 1), [drifted("a"), drifted("b")])
        drifting = drift.drifting(1)
        text = "a drifted: PSI 0.250, effect 0.500, 1,000 rows against 9,000"
        assert list(drifting) == ["a", "b"] and text in drifting["a"] and "drop 1.parquet: a drifted" in drifting["a"]
        assert drift.drifting(2) == {}
        drift.write(DriftSubject("raw", "2024-W34", MONDAY), [drifted("c")])
        assert list(drift.drifting(2)) == ["c"]


# quality


def quality_of(**changes: Any) -> WeekQuality:
    values: dict[str, Any] = {
        "outcomes": 600,
        "log_loss": 1.0,
        "log_loss_low": 0.9,
        "log_loss_high": 1.1,
        "expected_log_loss": 0.99,
        "prior_log_loss": 1.2,
        "accuracy": 0.5,
        "accuracy_low": 0.4,
        "accuracy_high": 0.6,
        "macro_f1": 0.3,
        "ece": 0.01,
        "classes": {"x": ClassQuality(600, 0.5, 0.5, 0.5)},
        "worse": False,
        "note": "",
        "verdict": "as expected",
        "log_loss_error": 0.02,
    }
    return WeekQuality(**values | changes)


def test_a_week_is_evaluated_again_and_keeps_its_sustained_verdict(apex: Apex, stores: Stores) -> None:
    later = MONDAY + timedelta(weeks=1)
    with stores.begin(apex.settings, apex.schema) as session:
        quality = stores.quality(session)
        quality.write(ChangedWeek(3, MONDAY, 1_000, 600), quality_of())
        quality.write(ChangedWeek(3, later, 1_000, 40), quality_of(outcomes=40, log_loss_error=None))
        quality.write(ChangedWeek(4, MONDAY, 1_000, 600), quality_of())
        quality.write_sustained(3, [SustainedVerdict(MONDAY, True, 1.5, MONDAY, 0.02)])
        quality.write(ChangedWeek(3, MONDAY, 1_000, 700), quality_of(outcomes=700, worse=True, note="worse by 0.1"))
        weeks = quality.weeks(3, 500)
        assert [(w.week, w.worse, w.note, w.sustained, w.since) for w in weeks] == [
            (MONDAY, True, "worse by 0.1", True, MONDAY)
        ]
        both = quality.weeks(3, 0)
        assert [(w.week, w.log_loss_error, w.sustained, w.excess) for w in both] == [
            (MONDAY, 0.02, True, 0.02),
            (later, None, False, None),
        ]
    assert apex.sql("SELECT outcomes, scored, classes->'x'->>'rows' FROM model_quality WHERE worse") == [
        (700, 1000, "600")
    ]


# the outbox


def test_a_batch_is_unsent_until_mlflow_has_all_of_it(apex: Apex, stores: Stores) -> None:
    write_runs(apex, 10, 30, 5)
    with stores.begin(apex.settings, apex.schema) as session:
        outbox = stores.outbox(session)
        assert outbox.unsent_batches() == ["batch 1", "batch 2"]
        assert [(r.run_id, r.rows_scored, r.drop_name) for r in outbox.runs("batch 1")] == [
            (1, 10, "1.parquet"),
            (2, 30, "2.parquet"),
        ]
        outbox.note_failure("batch 1", "MLflow does not answer")
        outbox.mark_sent([1], "mlflow run")
        assert outbox.unsent_batches() == ["batch 1", "batch 2"]
        outbox.mark_sent([2], "mlflow run")
        outbox.note_failure("batch 1", "too late")
        assert outbox.unsent_batches() == ["batch 2"]
        assert outbox.class_totals([1, 2]) == {"x": ClassTotal(40, 0.5), "y": ClassTotal(0, None)}
        assert [row["drop_sha256"] for row in outbox.run_rows([2, 3])] == [f"{2:064x}", f"{3:064x}"]
        assert outbox.first_rows([1], 5) == outbox.confidence_histogram([1], 10) == outbox.outcomes([1]) == []
    assert apex.sql("SELECT attempts, last_error, mlflow_run_id FROM mlflow_outbox ORDER BY run_id") == [
        (1, None, "mlflow run"),
        (1, None, "mlflow run"),
        (0, None, None),
    ]


# outcomes


def outcomes_of(*rows: tuple[int, int, str]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(
        [{"run_id": run, "row_nr": row, "observed": observed, "source": "raw"} for run, row, observed in rows], SCHEMA
    )


def test_outcomes_are_added_and_their_runs_go_back_to_the_outbox(apex: Apex, stores: Stores) -> None:
    write_runs(apex, 10, 30)
    with stores.begin(apex.settings, apex.schema) as session:
        stores.outbox(session).mark_sent([1, 2], "mlflow run")
    with stores.begin_bulk(apex.settings, apex.schema) as session:
        outcomes = stores.outcomes(session)
        outcomes.lock()
        assert outcomes.add([outcomes_of((1, 0, "x"), (1, 1, "y")), outcomes_of((2, 0, "é"))]) == 3
        assert outcomes.add([]) == 0
        outcomes.send_again([1])
        assert outcomes.coverage() == []
    assert apex.sql("SELECT run_id, row_nr, observed FROM outcomes ORDER BY 1, 2") == [
        (1, 0, "x"),
        (1, 1, "y"),
        (2, 0, "é"),
    ]
    with stores.begin(apex.settings, apex.schema) as session:
        assert stores.outbox(session).unsent_batches() == ["batch 1"]


def test_a_transaction_that_fails_adds_no_outcome(apex: Apex, stores: Stores) -> None:
    with pytest.raises(LookupError), stores.begin_bulk(apex.settings, apex.schema) as session:
        stores.outcomes(session).add([outcomes_of((1, 0, "x"))])
        raise LookupError
    assert apex.sql("SELECT FROM outcomes") == []


# quarantine


def quarantined(*rows: tuple[int, str]) -> pa.RecordBatch:
    values = [{"row_nr": nr, "reasons": '["cliente_id is null"]', "row": row} for nr, row in rows]
    return pa.RecordBatch.from_pylist(values)


def test_quarantined_rows_are_kept_once_and_at_most_so_many(apex: Apex, stores: Stores) -> None:
    first = quarantined((3, r'{"a": "x\u0000y"}'), (5, r'{"a": "\\u0000"}'))
    for sha256, batches, limit in (
        (A, [first, quarantined((8, "{}"))], 2),
        (A, [first, quarantined((9, "{}"))], None),
        (B, [], None),
    ):
        with stores.begin_bulk(apex.settings, apex.schema) as session:
            stores.quarantine(session).keep("drop", sha256, "a.parquet", batches, limit)
    assert apex.sql("SELECT source_sha256, row_nr, row->>'a' FROM quarantined_rows ORDER BY 2") == [
        (A, 3, "xy"),
        (A, 5, r"\u0000"),
        (A, 9, None),
    ]


# profiles of scoring runs


def test_the_runs_whose_drift_was_not_measured_yet(apex: Apex, stores: Stores) -> None:
    write_runs(apex, 10, 300, 400)
    today = datetime.now(UTC).date()
    with stores.begin(apex.settings, apex.schema) as session:
        profiles, drift = stores.profiles(session), stores.drift(session)
        assert [run.run_id for run in profiles.unchecked_runs(100)] == [2, 3]
        assert [run.run_id for run in profiles.runs_before(3, 1, 5)] == [2, 1]
        assert profiles.runs_before(3, 2, 5) == []
        assert profiles.unchecked_days() == [(today, 1)]
        assert [run.run_id for run in profiles.runs_of_day(today, 1)] == [1, 2, 3]
        drift.write(DriftSubject("drop", "2", today, 1), [drifted("a")])
        assert [(run.run_id, run.drifted) for run in profiles.runs_before(9, 1, 5)] == [
            (3, False),
            (2, True),
            (1, False),
        ]
        assert [run.run_id for run in profiles.unchecked_runs(100)] == [3]
        assert profiles.unchecked_online_days() == []


def test_a_corrected_drop_replaces_the_run_of_the_older_one(apex: Apex, stores: Stores) -> None:
    write_runs(apex, 300)
    ledgers = IMPLEMENTATIONS["psycopg2"]
    with stores.begin(apex.settings, apex.schema) as session:
        drop_id = ledgers.drops(session).claim(A, "1.parquet", 1, 200)
        assert drop_id is not None
        ledgers.runs(session).write(run_of(2, drop_id, rows=200), {"x": ClassFigures(200, 0.5, 0.5)}, "batch 2")
        assert [run.run_id for run in stores.profiles(session).unchecked_runs(1)] == [2]


# partitions


def test_a_run_of_many_rows_gets_a_partition_of_its_own(apex: Apex, stores: Stores, contract: Any) -> None:
    with ExitStack() as stack:
        session = stack.enter_context(stores.begin(apex.settings, apex.schema))
        partitions = stores.partitions(session)
        before = partitions.attached()
        session.execute("INSERT INTO scored_partitions (low, high, next) VALUES (1000, 1001, 1001)")
        assert partitions.create_own(1000) == "scored_1000"
        partitions.index_own(contract, 1000)
        assert partitions.attached() == before
        partitions.attach_own(1000)
        (new,) = [part for part in partitions.attached() if part not in before]
        assert (new.low, new.high, new.table) == (1000, 1001, "scored_1000")
