"""Bad drops beside a good one, on a whole platform."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from apex_ml.platform.airflow_api import AirflowApi
from apex_ml.platform.airflow_runs import DagRun, TaskRun

REASONS = {
    "junk.parquet": "junk.parquet: not a parquet file",
    "no such file.parquet": "no such file.parquet: is a link to nothing",
    "order\ufffd.parquet": "order\ufffd.parquet: its name is not UTF-8",
}
"""What the error of each bad drop contains, by its name as Airflow shows it."""


def deliver_bad_drops(inbox: Path) -> None:
    """Put one bad drop of each kind of REASONS into the inbox."""
    (inbox / "junk.parquet").write_bytes(b"junk")
    (inbox / "no such file.parquet").symlink_to("nothing")
    (inbox / os.fsdecode(b"order\xff.parquet")).write_bytes(b"any")


class FailedRuns:
    """Finds the runs of orders_score that end with bad drops, each once.

    The tasks of a run are asked for once, after its end: one process answers both these requests and those of the
    tasks, which would wait behind them.
    """

    def __init__(self, api: AirflowApi, report: Callable[[], str]) -> None:
        self._api = api
        self._report = report
        self._checked: set[str] = set()

    def next(self) -> tuple[DagRun, dict[str, str | None], dict[str | None, TaskRun]] | None:
        """A run that ended with bad drops, the states of its tasks, and the tasks of its bad drops by name.

        None while there is no further one. A run that failed for another reason fails the test immediately.
        """
        for run in self._api.dag_runs("orders_score"):
            if not run.finished or run.run_id in self._checked:
                continue
            self._checked.add(run.run_id)
            tasks = self._api.task_runs("orders_score", run.run_id)
            bad = {task.label: task for task in tasks if task.task_id == "bad_drops" and task.map_index >= 0}
            assert run.state == ("failed" if bad else "success"), self._report()
            if bad:
                return run, {task.task_id: task.state for task in tasks}, bad
        return None


def scored_events(api: AirflowApi) -> int:
    """How often a run of orders_score has announced that it scored something."""
    events: list[dict[str, Any]] = api.connection.call("GET", "/assets/events", params={"limit": 100})["asset_events"]
    return sum(event["name"] == "orders_scored" for event in events)
