"""What every implementation of a ledger must do; run on Postgres by both drivers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from apex_ml.adapters.postgres.alerts import BAD_DROP, DRIFT, UNKNOWN_VALUES
from apex_ml.adapters.postgres.champions import NewDecision, PendingMove
from apex_ml.adapters.postgres.drops import DropRow, FailedDrop, KnownDrop, RemovableDrop
from apex_ml.adapters.postgres.scoring_runs import ClassFigures
from apex_ml.adapters.postgres.shadow import DueDrop
from apex_ml.adapters.postgres.versions import VersionRecord
from apex_ml.core.recorded_evidence import RecordedEvidence
from apex_ml.errors import ConfigError, DataError
from tests.support.apex_home import Apex
from tests.support.ledgers import IMPLEMENTATIONS, MODEL, SCHEMAS, Ledgers, rows_outside, run_of

A, B, C = ("a" * 64, "b" * 64, "c" * 64)


@pytest.fixture(params=SCHEMAS)
def apex(request: pytest.FixtureRequest, databases: Any, home: Any) -> Iterator[Apex]:
    """A home whose pipeline has the tables of a schema; nothing is written to another schema of the same database."""
    instance = Apex(home(**databases.migrated(request.param)), request.param)
    yield instance
    assert rows_outside(instance) == {}


@pytest.fixture(params=IMPLEMENTATIONS)
def ledgers(request: pytest.FixtureRequest) -> Ledgers:
    return IMPLEMENTATIONS[request.param]


# drops


def test_a_content_is_claimed_once_and_supersedes_the_older_one_of_its_name(apex: Apex, ledgers: Ledgers) -> None:
    with ledgers.begin(apex.settings, apex.schema) as session:
        drops = ledgers.drops(session)
        first = drops.claim(A, "a.parquet", 1, 2)
        assert first is not None and drops.claim(A, "b.parquet", 1, 2) is None
        assert drops.by_content(A) == KnownDrop(first, "a.parquet", "done") and drops.by_content(B) is None
        second = drops.claim(B, "a.parquet", 1, 2)
        third = drops.claim(C, "c.parquet", 1, 2)
    assert dict(apex.sql("SELECT drop_id, superseded_by FROM drops")) == {first: second, second: None, third: None}


def test_a_failed_content_may_be_claimed_later_and_a_scored_one_does_not_fail(apex: Apex, ledgers: Ledgers) -> None:
    with ledgers.begin(apex.settings, apex.schema) as session:
        drops, alerts = ledgers.drops(session), ledgers.alerts(session)
        drops.fail(FailedDrop(A, "a.parquet", 1, "no model"), "one")
        drops.fail(FailedDrop(A, "a.parquet", 1, "still no model"), "two")
        known = drops.by_content(A)
        assert known is not None and known.state == "failed"
        assert [(bad.drop, bad.reason) for bad in alerts.bad_drops("two")] == [("a.parquet", "still no model")]
        assert drops.claim(A, "a.parquet", 1, 2) == known.drop_id
        assert alerts.list_open() == []
        assert not drops.fail(FailedDrop(A, "a.parquet", 1, "late"))
        drops.count_delivery(A)
        known = drops.by_content(A)
        assert known is not None and known.state == "done"
    assert apex.sql("SELECT deliveries, reason FROM drops") == [(3, None)]


def test_a_scored_drop_is_found_by_name_id_or_digest(apex: Apex, ledgers: Ledgers) -> None:
    with ledgers.begin(apex.settings, apex.schema) as session:
        drops = ledgers.drops(session)
        old = drops.claim(A, "a.parquet", 1, 2)
        new = drops.claim("a" * 63 + "b", "a.parquet", 1, 2)
        drops.fail(FailedDrop(C, "c.parquet", 1, "bad"))
        assert old is not None and new is not None
        assert drops.find_scored("a.parquet") == DropRow(new, "a.parquet", "a" * 63 + "b")
        assert drops.find_scored(str(old)) == drops.find_scored(A.upper()) == DropRow(old, "a.parquet", A)
        with pytest.raises(DataError, match="2 drops begin like this"):
            drops.find_scored("a" * 8)
        for text in ("a" * 7, "c.parquet", C):
            with pytest.raises(DataError, match="no scored drop has this name, id or sha256"):
                drops.find_scored(text)


def test_removed_drops_leave_the_ledger_and_make_the_superseded_one_current(apex: Apex, ledgers: Ledgers) -> None:
    with ledgers.begin(apex.settings, apex.schema) as session:
        drops, runs = ledgers.drops(session), ledgers.runs(session)
        first, second = drops.claim(A, "x-a.parquet", 1, 2), drops.claim(B, "x-a.parquet", 1, 2)
        other = drops.claim(C, "other.parquet", 1, 2)
        assert first is not None and second is not None and other is not None
        runs.write(run_of(1, second, rows=7), {"k": ClassFigures(7, 0.5, 0.5)}, "batch")
        assert drops.removable(["other.parquet", "none"]) == [RemovableDrop(other, "other.parquet", C, "done", 0)]
        assert [(d.drop_id, d.rows) for d in drops.removable([], "x-")] == [(first, 0), (second, 7)]
        drops.lock([second])
        assert [run_id for run_id, _ in runs.runs_of_drops([second])] == [1]
        runs.delete([1])
        drops.remove([second])
    assert apex.sql("SELECT drop_id, superseded_by FROM drops ORDER BY 1") == [(first, None), (other, None)]


# alerts


def test_an_open_alert_gets_the_newest_message(apex: Apex, ledgers: Ledgers) -> None:
    with ledgers.begin(apex.settings, apex.schema) as session:
        alerts = ledgers.alerts(session)
        alerts.raise_alert("late", "dag", "one")
        alerts.raise_alert("late", "dag", "two")
        alerts.raise_unless_open("late", "dag", "three")
        alerts.raise_unless_open(UNKNOWN_VALUES, "a", "four")
        assert [(a.kind, a.subject, a.message) for a in alerts.list_open()] == [
            (UNKNOWN_VALUES, "a", "four"),
            ("late", "dag", "two"),
        ]


def test_a_drop_that_is_bad_in_two_ways_has_two_alerts(apex: Apex, ledgers: Ledgers) -> None:
    with ledgers.begin(apex.settings, apex.schema) as session:
        alerts = ledgers.alerts(session)
        for reason, run in (("one", "r1"), ("two", "r2"), ("one", "r3")):
            alerts.raise_bad_drop("a.parquet", reason, run)
        result = {run: [bad.reason for bad in alerts.bad_drops(run)] for run in ("r1", "r2", "r3")}
        assert result == {"r1": [], "r2": ["two"], "r3": ["one"]}
        alerts.resolve([BAD_DROP], ["another"])
        assert len(alerts.open_of_kind(BAD_DROP)) == 2
        alerts.resolve([BAD_DROP, UNKNOWN_VALUES], ["a.parquet"])
        assert alerts.open_of_kind(BAD_DROP) == []


def test_syncing_a_kind_opens_and_resolves_alerts(apex: Apex, ledgers: Ledgers) -> None:
    with ledgers.begin(apex.settings, apex.schema) as session:
        alerts = ledgers.alerts(session)
        alerts.raise_alert("late", "x", "stays")
        assert alerts.set_open(DRIFT, {"x": "1", "y": "1"}) == (["x", "y"], [])
        ages = {a.subject: a.alert_id for a in alerts.open_of_kind(DRIFT)}
        assert alerts.set_open(DRIFT, {"y": "2", "z": "2"}) == (["z"], ["x"])
        now = {a.subject: (a.alert_id, a.message) for a in alerts.open_of_kind(DRIFT)}
        assert now["y"] == (ages["y"], "2") and sorted(now) == ["y", "z"]
        assert alerts.set_open(DRIFT, {}) == ([], ["y", "z"])
        assert [a.kind for a in alerts.list_open()] == ["late"]


def test_an_alert_without_a_measurement_can_be_closed_manually(apex: Apex, ledgers: Ledgers) -> None:
    with ledgers.begin(apex.settings, apex.schema) as session:
        alerts = ledgers.alerts(session)
        alerts.raise_alert("late", "x", "m")
        alerts.set_open(DRIFT, {"y": "m"})
        ids = {a.kind: a.alert_id for a in alerts.list_open()}
        assert alerts.close(ids["late"], "me", "seen") == ("late", "x")
        for alert_id, words in ((ids["late"], "is over since"), (ids[DRIFT], "measures its cause"), (99, "none with")):
            with pytest.raises(ConfigError, match=words):
                alerts.close(alert_id, "me", "seen")


def test_an_alert_counts_as_sent_after_every_channel_accepted_it(apex: Apex, ledgers: Ledgers) -> None:
    with ledgers.begin(apex.settings, apex.schema) as session:
        alerts = ledgers.alerts(session)
        alerts.raise_alert("late", "x", "m")
        (alert,) = alerts.unsent()
        alerts.mark_delivered("mail", [alert.alert_id])
        alerts.mark_delivered("mail", [alert.alert_id])
        assert alerts.undelivered("mail") == [] and alerts.undelivered("web") == [alert]
        alerts.mark_sent([])
        alerts.mark_sent(["mail", "web"])
        assert alerts.unsent() == [alert] and alerts.list_open()[0].channels == ["mail"]
        alerts.mark_delivered("web", [alert.alert_id])
        alerts.mark_sent(["mail", "web"])
        assert alerts.unsent() == []


def test_a_late_alert_is_resolved_by_the_next_run(apex: Apex, ledgers: Ledgers) -> None:
    with ledgers.begin(apex.settings, apex.schema) as session:
        alerts = ledgers.alerts(session)
        alerts.raise_alert("score_late", "x", "m")
        alerts.raise_alert(UNKNOWN_VALUES, "small drops, version 1", "m")
        alerts.resolve_late()
        alerts.resolve_small_drops()
        assert len(alerts.list_open()) == 2
        drop_id = ledgers.drops(session).claim(A, "a", 1, 1)
        assert drop_id is not None
        later = datetime.now(UTC) + timedelta(minutes=1)
        ledgers.runs(session).write(run_of(1, drop_id, finished_at=later), {"k": ClassFigures(1, 0.5, 0.5)}, "batch")
        alerts.resolve_late()
        alerts.resolve_small_drops()
        assert alerts.list_open() == []


# the champion


UNSURE = RecordedEvidence({"low": -math.inf, "n": 1})


def decision(action: str, to: int | None, state: Any = "done", run: str = "r", before: int | None = None) -> Any:
    return NewDecision(action, state, run, "me", ("why",), from_version=before, to_version=to, evidence=UNSURE)


def test_a_move_is_pending_until_it_is_finished(apex: Apex, ledgers: Ledgers) -> None:
    with ledgers.begin(apex.settings, apex.schema) as session:
        champions = ledgers.champions(session)
        number = champions.record(decision("promote", 1, "pending"))
        assert champions.pending_move() == PendingMove(number, None, 1) and champions.champion() is None
        champions.finish_move(number)
        assert champions.pending_move() is None and champions.champion() == 1
        aborted = champions.record(decision("promote", 2, "pending", before=1))
        champions.abort_move(aborted, "the alias was moved")
        assert champions.pending_move() is None and champions.champion() == 1
        (move,) = champions.moves()
        assert (move.to_version, move.reasons, move.evidence.as_dict()) == (1, ["why"], {"low": None, "n": 1})
    assert apex.sql("SELECT state, reasons, done_at IS NULL FROM promotions ORDER BY promotion_id") == [
        ("done", ["why"], False),
        ("aborted", ["why", "the alias was moved"], False),
    ]


def test_the_ledger_separates_decisions_from_moves(apex: Apex, ledgers: Ledgers) -> None:
    with ledgers.begin(apex.settings, apex.schema) as session:
        champions = ledgers.champions(session)
        assert champions.latest_input() is None and champions.rejections_since_last_move() == 0
        champions.record(decision("promote", 1, run="first"))
        champions.record(decision("reject", 2, run="second", before=1))
        champions.record(decision("reject", 3, run="third", before=1))
        assert champions.champion() == 1 and champions.rejections_since_last_move() == 2
        result = champions.decision_of("second", 2)
        assert result is not None and (result.action, result.from_version) == ("reject", 1)
        assert champions.decision_of("second", 3) is None and champions.decision_of("none", 2) is None
        champions.record(decision("force", 2, run="manual", before=1))
        assert champions.champion() == 2 and champions.rejections_since_last_move() == 0
        about = champions.latest_decision_about(2)
        assert about is not None and about.action == "reject"
        champions.record(decision("manual", None, before=2))
        assert champions.champion() is None and [m.to_version for m in champions.moves()] == [1, 2, None]
        for version, action in ((None, "manual"), (2, "force"), (1, "promote")):
            move = champions.latest_move_to(version)
            assert move is not None and move.action == action
        assert champions.latest_move_to(3) is None
        latest = champions.latest_input()
        assert latest is not None and latest.step_run == "third"


def version(number: int, mlflow_run: str = "one", run: str = "r", **about: Any) -> VersionRecord:
    return VersionRecord(number, mlflow_run, "d", "c", None, run, about)


def test_versions_of_different_models_are_never_confused(apex: Apex, ledgers: Ledgers) -> None:
    with ledgers.begin(apex.settings, apex.schema) as session:
        versions = ledgers.versions(session)
        assert versions.newest() is None and versions.references() == {}
        versions.record(version(1, low=-math.inf))
        versions.record(version(1, low=-math.inf))
        with pytest.raises(
            ConfigError, match=r"version 1 of m was trained before, by MLflow's run one.*another model.n"
        ):
            versions.record(version(1, "two"))
    assert apex.sql("SELECT about FROM model_versions") == [({"low": None},)]


def test_the_runs_of_champions_and_of_the_newest_version_are_in_use(apex: Apex, ledgers: Ledgers) -> None:
    with ledgers.begin(apex.settings, apex.schema) as session:
        versions, champions = ledgers.versions(session), ledgers.champions(session)
        for number in (1, 2, 3):
            versions.record(version(number, str(number), f"run {number}"))
        champions.record(decision("promote", 1))
        champions.record(decision("reject", 2, before=1))
        assert versions.runs_in_use() == {"run 1": 1, "run 3": 3}
        assert versions.newest() == 3
        champions.record(decision("manual", 9, before=1))
        assert versions.newest() == 9


# challengers


def test_a_challenger_scores_each_drop_once(apex: Apex, ledgers: Ledgers) -> None:
    with ledgers.begin(apex.settings, apex.schema) as session:
        ledgers.versions(session).record(version(2, promotable=True))
        ledgers.versions(session).record(version(3, "three", promotable=False))
    with ledgers.begin(apex.settings, apex.schema) as session:
        drops, runs, shadow = ledgers.drops(session), ledgers.runs(session), ledgers.shadow(session)
        ids = [drops.claim(sha, f"{sha[0]}.parquet", 1, 1) for sha in (A, B)]
        for number, drop_id in enumerate(ids, 1):
            assert drop_id is not None
            later = datetime.now(UTC) + timedelta(seconds=5)
            runs.write(run_of(number, drop_id, finished_at=later), {"k": ClassFigures(1, 0.5, 0.5)}, "batch")
        due = shadow.due(1)
        assert due == [DueDrop(1, "a.parquet", A, 2), DueDrop(2, "b.parquet", B, 2)]
        assert shadow.claim(1, 2, "f", "s", 1, "r") and not shadow.claim(1, 2, "f", "s", 1, "r")
        shadow.fail(2, 2, "r", "the file is gone")
        shadow.fail(2, 2, "r", "again")
        assert shadow.due(1) == [] and shadow.versions_beside(1) == []
    assert apex.sql("SELECT run_id, state, reason FROM shadow_runs ORDER BY 1") == [
        (1, "done", None),
        (2, "failed", "the file is gone"),
    ]


# scoring runs


def test_a_scoring_run_is_kept_with_its_classes_and_a_note_in_the_outbox(apex: Apex, ledgers: Ledgers) -> None:
    with ledgers.begin(apex.settings, apex.schema) as session:
        drop_id, runs = ledgers.drops(session).claim(A, "a.parquet", 1, 10), ledgers.runs(session)
        assert drop_id is not None
        classes = {"x": ClassFigures(10, 0.5, 0.25), "y": ClassFigures(0, math.nan, math.nan)}
        runs.write(run_of(1, drop_id), classes, "batch", "http://airflow/run")
        runs.write(run_of(2, drop_id, rows=200, input_alert="many"), classes, "batch")
        assert runs.drops_scored("scoring") == 2 and runs.drops_scored("other") == 0
        assert runs.facts("1")["feature_snapshot"] == "snapshot 1" and runs.facts("a.parquet")["run_id"] == "2"
        assert (runs.facts("2")["drop_sha256"], runs.facts("2")["model"]) == (A, f"{MODEL} version 1")
        with pytest.raises(DataError, match="no scoring run has this id"):
            runs.facts("none")
        assert runs.small_profiles(MODEL, 1, 100) == [{"features": {}, "lag_days": 1.0}]
        assert runs.small_profiles(MODEL, 2, 100) == []
        session.execute("INSERT INTO scored_partitions (low, high, next) VALUES (1, 2, 2), (2, 3, 3)")
        assert runs.snapshots_in_use([]) == {"snapshot 1", "snapshot 2"}
        assert runs.snapshots_in_use([2]) == {"snapshot 1"}
    assert apex.sql("SELECT row_us_mean, snapshot_as_of, input_alert FROM scoring_runs ORDER BY run_id") == [
        (None, date(2024, 8, 24), None),
        (None, date(2024, 8, 24), "many"),
    ]
    assert apex.sql("SELECT run_id, batch, origin, sent_at FROM mlflow_outbox ORDER BY 1") == [
        (1, "batch", "http://airflow/run", None),
        (2, "batch", "", None),
    ]
    assert apex.sql("SELECT predicted, rows, median_confidence FROM scoring_run_classes WHERE run_id = 1") == [
        ("x", 10, 0.25),
        ("y", 0, None),
    ]
