"""A client of Airflow's REST API for the main job and the status."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from apex_ml.errors import TransientError
from apex_ml.platform.airflow_connection import AirflowConnection
from apex_ml.platform.airflow_runs import DagRun, TaskLog, TaskRun, read_log
from apex_ml.settings import Settings

# of Airflow's audit log: by UI or API, by its command line, and `paused` by the scheduler after failures
PAUSED_EVENTS = ("paused", "cli_dag_pause")
PATCH_EVENTS = ("patch_dag", "patch_dags")
SWITCH_EVENTS = ("patch_dag", "delete_dag", "cli_dag_unpause", *PAUSED_EVENTS)
RESULT_KEY = "step_result"  # where the step operator puts the whole result of a step
IMPATIENT = {"patience": 0.5, "slow_patience": 30.0, "timeout": 15.0}
"""Arguments of :class:`AirflowApi` for interactive commands."""


class AirflowApi:
    """Airflow at ``APEX_AIRFLOW_URL``, as the user admin.

    Every request may be sent twice without harm. See :class:`AirflowConnection` for the retries and the errors.
    """

    def __init__(
        self, settings: Settings, *, patience: float = 30.0, slow_patience: float = 180.0, timeout: float = 30.0
    ) -> None:
        self.pages = settings.airflow_address
        self.connection = AirflowConnection(settings, patience=patience, slow_patience=slow_patience, timeout=timeout)

    def __enter__(self) -> Self:
        """Return the client; its connections close with the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        self.connection.close()

    def unpause(self, dag_id: str, *, wait_seconds: float = 120.0) -> None:
        """Unpause a DAG; wait until Airflow has parsed it."""
        deadline = time.monotonic() + wait_seconds
        while self.connection.call("PATCH", f"/dags/{dag_id}", json={"is_paused": False}, missing=True) is None:
            if time.monotonic() > deadline:
                raise TransientError(
                    f"Airflow at {self.connection.url} does not know the DAG {dag_id} after {wait_seconds:.0f} s: "
                    "see its import errors in the UI, or `make logs S=airflow-dag-processor`"
                )
            time.sleep(1.0)

    def trigger(self, dag_id: str, conf: Mapping[str, Any] | None = None) -> str:
        """Start a run under a new id and return that id; a repeated request starts no second run."""
        run_id = f"apex__{datetime.now(UTC):%Y-%m-%dT%H-%M-%S}__{uuid.uuid4().hex[:6]}"
        body = {"dag_run_id": run_id, "logical_date": None, "conf": dict(conf or {})}
        self.connection.call("POST", f"/dags/{dag_id}/dagRuns", json=body, exists=True)
        return run_id

    def dag_run(self, dag_id: str, run_id: str) -> DagRun:
        """Return one run."""
        return DagRun.of(self.connection.call("GET", f"/dags/{dag_id}/dagRuns/{_path(run_id)}"))

    def paused(self, dag_id: str) -> bool:
        """Whether a DAG is paused. A DAG that Airflow does not know yet counts as paused."""
        dag = self.connection.call("GET", f"/dags/{dag_id}", missing=True)
        return dag is None or bool(dag["is_paused"])

    def dags(self) -> dict[str, bool]:
        """Return the DAGs that Airflow reads from files, each with whether it is paused."""
        return {dag["dag_id"]: bool(dag["is_paused"]) for dag in self.connection.pages("/dags", "dags")}

    def import_errors(self) -> dict[str, str]:
        """Return the DAG files that do not parse, each with the last line of its error."""
        errors = self.connection.pages("/importErrors", "import_errors")
        return {error["filename"]: _last_line(error["stack_trace"]) for error in errors}

    def paused_by(self, dag_id: str) -> str | None:
        """Return who paused a paused DAG; None when it is paused because Airflow created it so.

        The newest entry of the audit log says so. Where the log was emptied, a DAG that has runs was on before, because
        deleting a DAG deletes its runs.
        """
        newest = {"order_by": "-event_log_id", "limit": 1}
        asked = ({"dag_id": dag_id, "included_events": SWITCH_EVENTS}, {"included_events": ("patch_dags",)})
        events = [
            e for one in asked for e in self.connection.call("GET", "/eventLogs", params=newest | one)["event_logs"]
        ]
        event = max(events, key=lambda e: int(e["event_log_id"]), default=None)
        if event and (event["event"] in PAUSED_EVENTS or (event["event"] in PATCH_EVENTS and _pauses(event["extra"]))):
            return str(event["owner"] or "somebody")
        return "somebody" if self.dag_runs(dag_id, limit=1) else None

    def pools(self) -> dict[str, int]:
        """Return the slots of every pool; -1 is no limit."""
        return {pool["name"]: int(pool["slots"]) for pool in self.connection.pages("/pools", "pools")}

    def make_pool(self, name: str, slots: int, description: str) -> None:
        """Create a pool, or set the slots of an existing one."""
        body = {"slots": slots, "description": description, "include_deferred": False}
        if self.connection.call("PATCH", f"/pools/{name}", json={"pool": name, **body}, missing=True) is None:
            self.connection.call("POST", "/pools", json={"name": name, **body}, exists=True)

    def dag_runs(self, dag_id: str, *, limit: int = 10) -> list[DagRun]:
        """Return the newest runs, the newest first."""
        params = {"limit": limit, "order_by": "-run_after"}
        return [
            DagRun.of(run) for run in self.connection.call("GET", f"/dags/{dag_id}/dagRuns", params=params)["dag_runs"]
        ]

    def task_runs(self, dag_id: str, run_id: str) -> list[TaskRun]:
        """Return all task instances of a run, mapped ones too."""
        path = f"/dags/{dag_id}/dagRuns/{_path(run_id)}/taskInstances"
        return [TaskRun.of(task) for task in self.connection.pages(path, "task_instances")]

    def log(self, dag_id: str, run_id: str, task: TaskRun) -> TaskLog:
        """Return the log of the last try of a task."""
        answer = self.connection.call(
            "GET",
            f"/dags/{dag_id}/dagRuns/{_path(run_id)}/taskInstances/{task.task_id}/logs/{max(task.try_number, 1)}",
            params={"map_index": task.map_index, "full_content": True},
            headers={"Accept": "application/json"},
            missing=True,
        )
        return read_log([] if answer is None else answer["content"])

    def result(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> dict[str, Any] | None:
        """Return the result of a step, None when there is none (yet)."""
        answer = self.connection.call(
            "GET",
            f"/dags/{dag_id}/dagRuns/{_path(run_id)}/taskInstances/{task_id}/xcomEntries/{RESULT_KEY}",
            params={"map_index": map_index, "deserialize": False, "stringify": False},
            missing=True,
        )
        value = None if answer is None else answer["value"]
        return value if isinstance(value, dict) else None

    def run_url(self, dag_id: str, run_id: str) -> str:
        """Return the page of a run in the UI."""
        return f"{self.pages}/dags/{dag_id}/runs/{_path(run_id)}"


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no reason given")


def _pauses(extra: str | None) -> bool:
    """Whether an entry of the audit log about a DAG's switch says that it was paused."""
    try:
        return bool(json.loads(extra or "{}").get("is_paused"))
    except (ValueError, AttributeError):
        return False


def _path(run_id: str) -> str:
    return quote(run_id, safe="")
