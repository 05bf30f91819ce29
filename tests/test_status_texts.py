"""Texts of `apex status` and `apex simulate year`: reasons and names stay on their line, commands can be copied."""

from __future__ import annotations

import io
import re
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from apex_ml.cli.simulated_year import year
from apex_ml.pipelines import load_pipeline
from apex_ml.platform import simulated_year
from apex_ml.platform.airflow_runs import DagRun, TaskLog, TaskRun
from apex_ml.platform.follow import NO_TEXT
from apex_ml.platform.reports import attention, status
from apex_ml.text import one_line

REASON = (
    "a.parquet: required columns are missing; expected → found\n  pais_cd (string) → PAIS_CD (rename it)\n"
    + "".join(f"  column {n} → nothing\n" for n in range(20))
)


def with_rows(monkeypatch: pytest.MonkeyPatch, part: Any, **rows: list[dict[str, Any]]) -> None:
    """Let a part of the report read these rows instead of Postgres."""

    class Views:
        def __init__(self, *_: Any) -> None: ...

        def open_alerts(self) -> list[dict[str, Any]]:
            return rows["alerts"]

        def latest_runs(self, _: int) -> list[dict[str, Any]]:
            return rows["runs"]

    monkeypatch.setattr(part, "reading", lambda *_: nullcontext())
    monkeypatch.setattr(part, "PostgresViews", Views)


@pytest.mark.parametrize("is_terminal", [False, True])
def test_the_reason_of_a_bad_drop_is_one_line_and_cut_at_a_terminal_only(
    home: Any, monkeypatch: pytest.MonkeyPatch, is_terminal: bool
) -> None:
    moment = datetime(2024, 1, 1, tzinfo=UTC)
    alert = {"kind": "bad_drop", "alert_id": 1, "subject": "a\nb", "message": REASON, "raised_at": moment}
    with_rows(monkeypatch, attention, alerts=[alert])
    console = Console(width=1_000, record=True, file=io.StringIO(), force_terminal=is_terminal)
    assert attention.show_alerts(home(), load_pipeline(home()), console) is False
    row = next(line for line in console.export_text().splitlines() if "a.parquet" in line)
    assert "expected → found; pais_cd (string) → PAIS_CD (rename it); column 0 → nothing; column 1" in row
    assert r"a\x0ab" in row
    if is_terminal:
        (shown,) = (cell.strip() for cell in row.split("  ") if "a.parquet" in cell)
        assert shown.endswith(" …") and shown.removesuffix(" …").split()[-1] in one_line(REASON).split()
        assert len(shown) <= attention.MAX_MESSAGE
    else:
        assert one_line(REASON) in row and "…" not in row


def test_a_scoring_run_is_one_line_whatever_the_name_of_its_drop(home: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run = {"finished_at": datetime(2024, 1, 1, tzinfo=UTC), "name": "a\nb", "rows_scored": 1, "rows_quarantined": 0}
    with_rows(monkeypatch, status, runs=[run | {"model_version": 1, "ms_total": 1000.0}])
    console = Console(width=200, record=True, file=io.StringIO())
    status._scoring_runs(home(), load_pipeline(home()), console)
    title, row = console.export_text().splitlines()
    assert title == "last scoring runs:" and r"a\x0ab: 1 scored" in row


START = datetime(2024, 1, 1, tzinfo=UTC)


class Airflow:
    """Runs of orders_retrain: one without new raw data, three failed ones, a trained one and a running one."""

    STATES = {
        "idle": ("success", {"validate": "skipped", "elt": "skipped"}),
        "bad": ("failed", {"validate": "success", "elt": "failed", "split": "upstream_failed"}),
        "silent": ("failed", {"validate": "failed", "elt": "upstream_failed"}),
        "timed_out": ("failed", {"validate": "skipped"}),
        "trained": ("success", {"validate": "success", "elt": "success"}),
        "now": ("running", {"validate": "running"}),
    }

    def __init__(self, *_: object, **__: object) -> None: ...

    def __enter__(self) -> Airflow:
        return self

    def __exit__(self, *_: object) -> None: ...

    def dag_runs(self, dag_id: str, *, limit: int) -> list[DagRun]:
        runs = self.STATES.items()
        return [DagRun(dag_id, name, state, START, START + timedelta(seconds=9)) for name, (state, _) in runs]

    def task_runs(self, dag_id: str, run_id: str) -> list[TaskRun]:
        assert run_id != "now"
        return [TaskRun(name, -1, None, state, 1, START, 1.0) for name, state in self.STATES[run_id][1].items()]

    def result(self, dag_id: str, run_id: str, task_id: str) -> dict[str, Any] | None:
        return {"skip": "no new raw data"} if (run_id, task_id) == ("idle", "validate") else None

    def log(self, dag_id: str, run_id: str, task: TaskRun) -> TaskLog:
        error = "apex elt (exit code 10): apex: DataError: a.parquet: no rows\n  and more"
        return TaskLog((), (error,) if task.task_id == "elt" else (), None)


def test_a_failed_and_a_skipped_retraining_show_the_reason(home: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "AirflowApi", Airflow)
    console = Console(width=200, record=True, file=io.StringIO())
    status._retrain_runs(home(), load_pipeline(home()), console)
    assert [line.rstrip() for line in console.export_text().splitlines()] == [
        "last retrain runs:",
        "  2024-01-01 00:00:00  skipped      9 s  idle",
        "    skipped: no new raw data",
        "  2024-01-01 00:00:00  failed       9 s  bad",
        "    elt failed: DataError: a.parquet: no rows",
        "  2024-01-01 00:00:00  failed       9 s  silent",
        f"    validate failed: {NO_TEXT}",
        "  2024-01-01 00:00:00  failed       9 s  timed_out",
        "  2024-01-01 00:00:00  success      9 s  trained",
        "  2024-01-01 00:00:00  running      9 s  now",
    ]


YEAR = """{
 "plan": {
  "seed": 1,
  "weeks": 3,
  "drift_week": 2,
  "history_weeks": 8,
  "clients": 15000,
  "orders_a_week": 25000,
  "retrain_every": 4,
  "start": "2024-01-01"
 },
 "false_alarms": 1,
 "weeks_until_drift_found": 0,
 "weeks_until_degradation_found": null,
 "weeks_until_promotion": null,
 "weeks_until_recovered": null,
 "drifted_weeks_after_promotion": null,
 "trainings": 0,
 "trainings_without_promotion": 0,
 "weeks": [
  {
   "week": 1,
   "monday": "2024-02-26",
   "version": 1,
   "log_loss": null,
   "worse": false,
   "drifted": [],
   "alerts": [
    "a"
   ],
   "retrained": "",
   "promoted": null
  },
  {
   "week": 2,
   "monday": "2024-03-04",
   "version": 1,
   "log_loss": 0.5,
   "worse": true,
   "drifted": [
    "b"
   ],
   "alerts": [
    "b"
   ],
   "retrained": "",
   "promoted": null
  }
 ],
 "seconds": 0
}
"""


def test_the_end_of_a_simulated_year_can_be_read_and_copied(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    weeks = [
        simulated_year.Week(1, "2024-02-26", 1, alerts=["a"]),
        simulated_year.Week(2, "2024-03-04", 1, log_loss=0.5, worse=True, drifted=["b"], alerts=["b"]),
    ]
    monkeypatch.setattr(simulated_year, "simulate_year", lambda _, plan, __: simulated_year.summary(plan, weeks))
    folder = tmp_path / "a year"
    folder.mkdir()
    result = CliRunner().invoke(year, ["--weeks", "3", "--drift-week", "2", "--home", str(folder)])
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert f"{'weeks until promotion':<32}none" in lines and "None" not in result.output
    assert lines[-1].endswith(f"APEX_HOME='{folder}' apex up")
    content = (folder / "year.json").read_text()
    assert re.sub(r'"seconds": [0-9.]+', '"seconds": 0', content) == YEAR
