"""Runs of DAGs and tasks, and the log of a task, as Airflow's REST API describes them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

FINISHED = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})


@dataclass(frozen=True)
class DagRun:
    """A run of a DAG. ``state`` is queued, running, success or failed."""

    dag_id: str
    run_id: str
    state: str
    started: datetime | None
    ended: datetime | None

    @classmethod
    def of(cls, body: Any) -> Self:
        """Read a run from an answer of the API."""
        return cls(
            body["dag_id"], body["dag_run_id"], body["state"], _when(body["start_date"]), _when(body["end_date"])
        )

    @property
    def finished(self) -> bool:
        """Whether its state is final."""
        return self.state in ("success", "failed")


@dataclass(frozen=True)
class TaskRun:
    """A task instance; a mapped one has a ``map_index`` from 0 and, once known, a ``label``."""

    task_id: str
    map_index: int
    label: str | None
    state: str | None
    try_number: int
    started: datetime | None
    seconds: float | None

    @classmethod
    def of(cls, body: Any) -> Self:
        """Read a task instance from an answer of the API."""
        return cls(
            task_id=body["task_id"],
            map_index=body["map_index"],
            label=body["rendered_map_index"],
            state=body["state"],
            try_number=body["try_number"],
            started=_when(body["start_date"]),
            seconds=body["duration"],
        )

    @property
    def finished(self) -> bool:
        """Whether its state is final."""
        return self.state in FINISHED

    @property
    def name(self) -> str:
        """The task, with the label of what it is mapped over."""
        return self.task_id if self.map_index < 0 else f"{self.task_id} [{self.label or self.map_index}]"

    def elapsed(self, now: datetime) -> float | None:
        """Seconds since it started, or that it took; None before the start."""
        if self.finished or self.started is None:
            return self.seconds
        return max(0.0, (now - self.started).total_seconds())


@dataclass(frozen=True)
class TaskLog:
    """The log of one try of a task: its lines, the messages of its errors, and the file it was read from."""

    lines: tuple[str, ...]
    errors: tuple[str, ...]
    path: str | None


def read_log(content: list[Any]) -> TaskLog:
    """Turn the entries of a task log into lines; those of level error, with their exceptions, are listed apart too.

    >>> log = read_log([
    ...     {"event": "::group::Log message source details"}, {"event": "/logs/attempt=1.log"},
    ...     {"event": "::endgroup::"},
    ...     {"event": "rows=3", "level": "info"},
    ...     {"event": "Task failed with exception", "level": "error",
    ...      "error_detail": [{"exc_type": "AirflowFailException", "exc_value": "apex elt: no rows"}]},
    ... ])
    >>> log.path, log.errors, log.lines[0]
    ('/logs/attempt=1.log', ('apex elt: no rows',), 'rows=3')
    """
    lines: list[str] = []
    errors: list[str] = []
    path: str | None = None
    group = ""
    for entry in content:
        event = entry if isinstance(entry, str) else str(entry.get("event", ""))
        if event.startswith("::"):
            group = event.removeprefix("::group::") if event.startswith("::group::") else ""
            continue
        if group.startswith("Log message source"):
            path = path or event
            continue
        lines.append(event)
        if not isinstance(entry, str) and entry.get("level") in ("error", "critical"):
            exceptions = [_exception(detail) for detail in entry.get("error_detail") or []]
            errors += exceptions or [event]
            lines += exceptions
    return TaskLog(tuple(lines), tuple(errors), path)


def _exception(detail: Any) -> str:
    kind, value = str(detail.get("exc_type")), str(detail.get("exc_value"))
    # the operator's own exceptions already carry the step's message
    return value if kind.startswith("Airflow") else f"{kind}: {value}"


def _when(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
