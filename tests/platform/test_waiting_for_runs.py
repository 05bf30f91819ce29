"""The waits of the platform tests: they miss no run, and report the last state after a timeout."""

from __future__ import annotations

from typing import Any

import pytest

from apex_ml.platform.airflow_runs import DagRun, TaskLog, TaskRun
from tests.support.bad_drops import FailedRuns
from tests.support.dag_runs import is_idle, report_runs
from tests.support.waiting import until


class Airflow:
    """Runs by id with their state, the tasks of each, and the asset events that wait; counts the requests for tasks."""

    def __init__(self, runs: dict[str, str], queued: int = 0, bad: dict[str, list[str]] | None = None) -> None:
        self.runs, self.queued, self.bad = runs, queued, bad or {}
        self.asked: list[str] = []
        self.connection = self

    def call(self, method: str, path: str, **options: Any) -> Any:
        assert (method, path) == ("GET", "/dags/orders_score/assets/queuedEvents")
        return {"queued_events": [{"asset_id": n} for n in range(self.queued)]} if self.queued else None

    def dag_runs(self, dag_id: str, *, limit: int = 10) -> list[DagRun]:
        return [DagRun(dag_id, run, state, None, None) for run, state in self.runs.items()][:limit]

    def task_runs(self, dag_id: str, run_id: str) -> list[TaskRun]:
        self.asked.append(run_id)
        names = self.bad.get(run_id, [])
        tasks = [TaskRun("bad_drops", n, name, "failed", 1, None, 1.0) for n, name in enumerate(names)]
        return [TaskRun("score", -1, None, "success", 1, None, 2.0), *tasks]

    def log(self, dag_id: str, run_id: str, task: TaskRun) -> TaskLog:
        return TaskLog((), (f"{task.label}: not a parquet file",), None)


@pytest.mark.parametrize(
    ("runs", "queued", "idle"),
    [
        ({}, 0, True),
        ({"a": "success"}, 0, True),
        ({"a": "success"}, 1, False),
        ({"b": "queued", "a": "success"}, 0, False),
    ],
)
def test_a_dag_with_an_event_that_waits_is_not_idle(runs: dict[str, str], queued: int, idle: bool) -> None:
    assert is_idle(Airflow(runs, queued), "orders_score") is idle  # type: ignore[arg-type]


def test_a_running_run_is_found_with_its_bad_drops() -> None:
    airflow = Airflow({"a": "success"})
    failed_runs = FailedRuns(airflow, lambda: "report")  # type: ignore[arg-type]
    airflow.runs = {"b": "running", "a": "success"}
    assert failed_runs.next() is None
    airflow.runs = {"b": "failed", "a": "success"}
    airflow.bad = {"b": ["junk.parquet"]}
    match = failed_runs.next()
    assert match is not None and match[0].run_id == "b" and set(match[2]) == {"junk.parquet"}
    assert failed_runs.next() is None
    assert airflow.asked == ["a", "b"]  # once each, after its end


def test_a_run_that_fails_without_bad_drops_fails_the_test_immediately() -> None:
    failed_runs = FailedRuns(Airflow({"a": "failed"}), lambda: "why it failed")  # type: ignore[arg-type]
    with pytest.raises(AssertionError, match="why it failed"):
        failed_runs.next()


def test_a_timeout_reports_the_last_state() -> None:
    airflow = Airflow({"a": "failed"}, queued=1, bad={"a": ["junk.parquet"]})
    with pytest.raises(AssertionError) as raised:
        until(lambda: False, 0, "a run", explain=lambda: report_runs(airflow, "orders_score"))  # type: ignore[arg-type]
    for text in ("not after 0 s: a run", "asset events queued: [{'asset_id': 0}]", "a failed", "score: success"):
        assert text in str(raised.value)
    assert "bad_drops [junk.parquet]: failed" in str(raised.value)
    assert "junk.parquet: not a parquet file" in str(raised.value)
