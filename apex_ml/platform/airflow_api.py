"""A client of Airflow's REST API, for what the main job and the status need of it."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

from apex_ml.errors import ConfigError, TransientError
from apex_ml.settings import Settings

FINISHED = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})
# of Airflow's audit log: by UI or API, by its command line, and `paused` by the scheduler after failures
PAUSED_EVENTS = ("paused", "cli_dag_pause")
PATCH_EVENTS = ("patch_dag", "patch_dags")
SWITCH_EVENTS = ("patch_dag", "delete_dag", "cli_dag_unpause", *PAUSED_EVENTS)
RESULT_KEY = "step_result"  # where the step operator puts the whole result of a step
PAGE = 100
IMPATIENT = {"patience": 0.5, "slow_patience": 30.0, "timeout": 15.0}
"""Arguments of :class:`AirflowApi` where a person waits for the answer."""


@dataclass(frozen=True)
class DagRun:
    """A run of a DAG. ``state`` is queued, running, success or failed."""

    dag_id: str
    run_id: str
    state: str
    started: datetime | None
    ended: datetime | None

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
    """The log of one try of a task: its lines, those that tell an error, and the file it was read from."""

    lines: tuple[str, ...]
    errors: tuple[str, ...]
    path: str | None


class AirflowApi:
    """Airflow at ``APEX_AIRFLOW_URL``, as the user admin.

    Connection errors and answers 429 and 5xx are tried again for ``patience`` seconds. A request that takes longer
    than ``timeout`` seconds is sent again for ``slow_patience`` seconds in all; each of them may be sent twice without
    harm. Then :class:`~apex_ml.errors.TransientError` is raised, with the address and its setting. A refused password
    raises :class:`~apex_ml.errors.ConfigError`, and so does every other refusal, with Airflow's reason, and a server
    that is not Airflow.
    """

    def __init__(
        self, settings: Settings, *, patience: float = 30.0, slow_patience: float = 180.0, timeout: float = 30.0
    ) -> None:
        self.url = settings.airflow
        self.pages = settings.airflow_address
        self.setting = "APEX_AIRFLOW_URL" if settings.airflow_url else "APEX_AIRFLOW_PORT"
        self.patience = patience
        self.slow_patience = max(slow_patience, patience)
        self.timeout = timeout
        self._password = settings.airflow_admin_password
        self._token: str | None = None
        # trust_env=False: a proxy of the shell must not come between this machine and itself
        self._http = httpx.Client(base_url=self.url, timeout=timeout, trust_env=False)

    def __enter__(self) -> Self:
        """Return the client; its connections close with the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        self._http.close()

    def unpause(self, dag_id: str, *, wait_seconds: float = 120.0) -> None:
        """Switch a DAG on; wait for Airflow to have parsed it."""
        deadline = time.monotonic() + wait_seconds
        while self._call("PATCH", f"/dags/{dag_id}", json={"is_paused": False}, missing=True) is None:
            if time.monotonic() > deadline:
                raise TransientError(
                    f"Airflow at {self.url} does not know the DAG {dag_id} after {wait_seconds:.0f} s: "
                    "see its import errors in the UI, or `make logs S=airflow-dag-processor`"
                )
            time.sleep(1.0)

    def trigger(self, dag_id: str, conf: Mapping[str, Any] | None = None) -> str:
        """Start a run under a new id and return that id; a repeated request starts no second run."""
        run_id = f"apex__{datetime.now(UTC):%Y-%m-%dT%H-%M-%S}__{uuid.uuid4().hex[:6]}"
        body = {"dag_run_id": run_id, "logical_date": None, "conf": dict(conf or {})}
        self._call("POST", f"/dags/{dag_id}/dagRuns", json=body, exists=True)
        return run_id

    def dag_run(self, dag_id: str, run_id: str) -> DagRun:
        """Return one run."""
        return _dag_run(self._call("GET", f"/dags/{dag_id}/dagRuns/{_path(run_id)}"))

    def paused(self, dag_id: str) -> bool:
        """Whether a DAG is switched off; one that Airflow does not know yet is."""
        found = self._call("GET", f"/dags/{dag_id}", missing=True)
        return found is None or bool(found["is_paused"])

    def dags(self) -> dict[str, bool]:
        """Return the DAGs that Airflow reads from files, each with whether it is paused."""
        return {dag["dag_id"]: bool(dag["is_paused"]) for dag in self._pages("/dags", "dags")}

    def import_errors(self) -> dict[str, str]:
        """Return the DAG files that do not parse, each with the last line of its error."""
        errors = self._pages("/importErrors", "import_errors")
        return {error["filename"]: _last_line(error["stack_trace"]) for error in errors}

    def paused_by(self, dag_id: str) -> str | None:
        """Return who paused a paused DAG; None when it is paused because Airflow created it so.

        The newest entry of the audit log tells. Where that was emptied, a DAG that has runs was on before; whoever
        deletes a DAG deletes its runs.
        """
        newest = {"order_by": "-event_log_id", "limit": 1}
        asked = ({"dag_id": dag_id, "included_events": SWITCH_EVENTS}, {"included_events": ("patch_dags",)})
        events = [e for one in asked for e in self._call("GET", "/eventLogs", params=newest | one)["event_logs"]]
        event = max(events, key=lambda e: int(e["event_log_id"]), default=None)
        if event and (event["event"] in PAUSED_EVENTS or (event["event"] in PATCH_EVENTS and _pauses(event["extra"]))):
            return str(event["owner"] or "somebody")
        return "somebody" if self.dag_runs(dag_id, limit=1) else None

    def pools(self) -> dict[str, int]:
        """Return the slots of every pool; -1 is no limit."""
        return {pool["name"]: int(pool["slots"]) for pool in self._pages("/pools", "pools")}

    def make_pool(self, name: str, slots: int, description: str) -> None:
        """Create a pool, or give the one that is there these slots."""
        body = {"slots": slots, "description": description, "include_deferred": False}
        if self._call("PATCH", f"/pools/{name}", json={"pool": name, **body}, missing=True) is None:
            self._call("POST", "/pools", json={"name": name, **body}, exists=True)

    def dag_runs(self, dag_id: str, *, limit: int = 10) -> list[DagRun]:
        """Return the newest runs, the newest first."""
        params = {"limit": limit, "order_by": "-run_after"}
        return [_dag_run(run) for run in self._call("GET", f"/dags/{dag_id}/dagRuns", params=params)["dag_runs"]]

    def task_runs(self, dag_id: str, run_id: str) -> list[TaskRun]:
        """Return all task instances of a run, mapped ones too."""
        path = f"/dags/{dag_id}/dagRuns/{_path(run_id)}/taskInstances"
        return [_task_run(task) for task in self._pages(path, "task_instances")]

    def log(self, dag_id: str, run_id: str, task: TaskRun) -> TaskLog:
        """Return the log of the last try of a task."""
        answer = self._call(
            "GET",
            f"/dags/{dag_id}/dagRuns/{_path(run_id)}/taskInstances/{task.task_id}/logs/{max(task.try_number, 1)}",
            params={"map_index": task.map_index, "full_content": True},
            headers={"Accept": "application/json"},
            missing=True,
        )
        return read_log([] if answer is None else answer["content"])

    def result(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> dict[str, Any] | None:
        """Return the result of a step, None when there is none (yet)."""
        answer = self._call(
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

    def _pages(self, path: str, name: str) -> list[Any]:
        """Return all entries of a list that comes in pages."""
        entries: list[Any] = []
        while True:
            page = self._call("GET", path, params={"limit": PAGE, "offset": len(entries)})
            entries += page[name]
            if len(entries) >= page["total_entries"] or not page[name]:
                return entries

    def _call(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        missing: bool = False,
        exists: bool = False,
    ) -> Any:
        """Return the decoded answer. ``missing``: None for a 404; ``exists``: None for a 409."""
        fresh = False
        while True:
            if self._token is None:
                self._token, fresh = self._login(), True
            bearer = {"Authorization": f"Bearer {self._token}", **(headers or {})}
            answer = self._send(method, f"/api/v2{path}", json=json, params=params, headers=bearer)
            if answer.status_code == httpx.codes.UNAUTHORIZED and not fresh:
                self._token = None  # expired, or signed before a restart with another secret
                continue
            if (missing and answer.status_code == httpx.codes.NOT_FOUND) or (
                exists and answer.status_code == httpx.codes.CONFLICT
            ):
                return None
            if answer.is_error:
                raise ConfigError(
                    f"Airflow at {self.url} refuses {method} {path}: {answer.status_code} {_reason(answer)}"
                )
            return self._decoded(answer)

    def _login(self) -> str:
        body = {"username": "admin", "password": self._password.get_secret_value()}
        answer = self._send("POST", "/auth/token", json=body)
        if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise ConfigError(
                f"Airflow at {self.url} refuses the user admin ({answer.status_code}): "
                "APEX_AIRFLOW_ADMIN_PASSWORD in .env is not the password it was started with"
            )
        token = None if answer.is_error else self._decoded(answer).get("access_token")
        if not token:
            raise self._not_airflow(answer)
        return str(token)

    def _decoded(self, answer: httpx.Response) -> dict[str, Any]:
        try:
            content = answer.json()
        except ValueError:
            content = None
        if not isinstance(content, dict):
            raise self._not_airflow(answer)
        return content

    def _not_airflow(self, answer: httpx.Response) -> ConfigError:
        what = f"{answer.request.method} {answer.request.url.path} is answered with {answer.status_code}"
        return ConfigError(
            f"{self.url} ({self.setting}) is not Airflow: {what} {_reason(answer)!r}. Stop the program that listens"
            f" there, or set {self.setting} in .env; then: make up"
        )

    def _send(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """Send a request, again after a while when nobody answers or the answer takes too long."""
        began, pause = time.monotonic(), 0.2
        while True:
            problem: str
            cause: Exception | None = None
            patience = self.patience
            remedy = "`make status` tells what runs, `make up` starts it"
            try:
                answer = self._http.request(method, path, json=json, params=params, headers=headers)
            except httpx.TimeoutException as error:
                patience, cause = self.slow_patience, error
                problem = f"does not answer {method} {path} in {time.monotonic() - began:.0f} s"
            except (httpx.RemoteProtocolError, httpx.DecodingError) as error:
                problem, cause = f"answers something else than HTTP ({error or type(error).__name__})", error
                remedy = f"stop the program that listens there, or set {self.setting} in .env; then: make up"
            except httpx.TransportError as error:
                problem, cause = f"does not answer ({error or type(error).__name__})", error
            else:
                if not answer.is_server_error and answer.status_code != httpx.codes.TOO_MANY_REQUESTS:
                    return answer
                problem = f"answers {answer.status_code} {_reason(answer)}"
            if time.monotonic() + pause > began + patience:
                raise TransientError(f"Airflow at {self.url} ({self.setting}) {problem}: {remedy}") from cause
            time.sleep(pause)
            pause = min(2.0, pause * 2)


def read_log(content: list[Any]) -> TaskLog:
    """Turn the entries of a task log into lines; those of level error, with their exceptions, also stand apart.

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
            told = [_exception(detail) for detail in entry.get("error_detail") or []]
            errors += told or [event]
            lines += told
    return TaskLog(tuple(lines), tuple(errors), path)


def _exception(detail: Any) -> str:
    kind, value = str(detail.get("exc_type")), str(detail.get("exc_value"))
    # the operator's own exceptions already carry the step's message
    return value if kind.startswith("Airflow") else f"{kind}: {value}"


def _dag_run(body: Any) -> DagRun:
    return DagRun(body["dag_id"], body["dag_run_id"], body["state"], _when(body["start_date"]), _when(body["end_date"]))


def _task_run(body: Any) -> TaskRun:
    return TaskRun(
        task_id=body["task_id"],
        map_index=body["map_index"],
        label=body["rendered_map_index"],
        state=body["state"],
        try_number=body["try_number"],
        started=_when(body["start_date"]),
        seconds=body["duration"],
    )


def _when(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


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


def _reason(answer: httpx.Response) -> str:
    try:
        detail = answer.json()["detail"]
    except (ValueError, KeyError, TypeError):
        detail = answer.text
    return str(detail)[:300]
