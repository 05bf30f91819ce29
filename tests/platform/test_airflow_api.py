"""The client of Airflow's REST API against a small HTTP server with Airflow's manners."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from apex_ml.contract.pipeline import DAG_KINDS
from apex_ml.errors import ConfigError, TransientError
from apex_ml.pipeline_settings import load_pipeline_settings
from apex_ml.platform import airflow_state
from apex_ml.platform.airflow_api import AirflowApi
from apex_ml.settings import Settings
from tests.support.manifests import leave_manifest
from tests.support.pipeline_files import write_pipelines

TASK = {
    "task_id": "score",
    "map_index": 0,
    "rendered_map_index": "a.parquet +2",
    "state": "running",
    "try_number": 1,
    "start_date": "2026-01-02T03:04:05.123456Z",
    "duration": None,
}


SLOW = {"detail": "an answer that comes too late"}


class Airflow(ThreadingHTTPServer):
    """Answers by (method, path) from a table; a list of answers is used in order, and the last one repeats."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[tuple[str, str], list[tuple[int, Any]]] = {
            ("POST", "/auth/token"): [(201, {"access_token": "t"})]
        }
        self.requests: list[tuple[str, str, Any]] = []
        self.over = threading.Event()


class Handler(BaseHTTPRequestHandler):
    """Keeps what was asked and gives the next answer."""

    server: Airflow

    def answer(self) -> None:
        path = self.path.partition("?")[0].removeprefix("/api/v2")
        length = int(self.headers.get("Content-Length") or 0)
        self.server.requests.append((self.command, self.path, json.loads(self.rfile.read(length) or "null")))
        answers = self.server.answers.get((self.command, path), [(404, {"detail": f"no {path}"})])
        status, body = answers.pop(0) if len(answers) > 1 else answers[0]
        if body == SLOW:
            self.server.over.wait(5)
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PATCH = answer  # noqa: N815 - names of http.server

    def log_message(self, *args: object) -> None:
        """Stay silent."""


@pytest.fixture
def airflow() -> Iterator[Airflow]:
    """A server on a free port."""
    with Airflow() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.over.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def api(airflow: Airflow, tmp_path: Path) -> Iterator[AirflowApi]:
    """A client of that server with a short timeout."""
    settings = Settings.load(
        home=tmp_path, airflow_url=f"http://127.0.0.1:{airflow.server_port}", airflow_admin_password="secret"
    )
    with AirflowApi(settings, patience=1.0) as client:
        yield client


DAGS = [f"orders_{kind}" for kind in DAG_KINDS]


def findings(settings: Settings, api: AirflowApi) -> list[airflow_state.Finding]:
    """What is wrong with the platform and its only pipeline."""
    pipeline = load_pipeline_settings(settings)
    state = airflow_state.AirflowState.read(api)
    return airflow_state.platform_findings(settings, state) + airflow_state.pipeline_findings(
        settings, api, state, pipeline
    )


def test_trigger_uses_a_new_id_each_time_and_survives_its_own_repetition(airflow: Airflow, api: AirflowApi) -> None:
    airflow.answers["POST", "/dags/orders_retrain/dagRuns"] = [(200, {}), (503, {}), (409, {"detail": "exists"})]
    first = api.trigger("orders_retrain", {"force": True})
    second = api.trigger("orders_retrain")
    assert first != second
    bodies = [body for method, path, body in airflow.requests if path.endswith("/dagRuns")]
    assert [body["dag_run_id"] for body in bodies] == [first, second, second]
    assert bodies[0]["conf"] == {"force": True} and bodies[0]["logical_date"] is None


def test_an_expired_token_is_renewed_once(airflow: Airflow, api: AirflowApi) -> None:
    airflow.answers["GET", "/dags/orders_score/dagRuns"] = [(200, {"dag_runs": []}), (401, {}), (200, {"dag_runs": []})]
    assert api.dag_runs("orders_score") == [] and api.dag_runs("orders_score") == []
    assert [path for _, path, _ in airflow.requests].count("/auth/token") == 2


def test_a_refused_password_names_the_setting_and_not_the_password(airflow: Airflow, api: AirflowApi) -> None:
    airflow.answers["POST", "/auth/token"] = [(401, {"detail": "no"})]
    with pytest.raises(ConfigError, match="APEX_AIRFLOW_ADMIN_PASSWORD") as caught:
        api.dag_runs("orders_score")
    assert "secret" not in str(caught.value)


def test_a_refusal_is_reported_with_its_reason(airflow: Airflow, api: AirflowApi) -> None:
    airflow.answers["POST", "/dags/orders_retrain/dagRuns"] = [(400, {"detail": "trials: -1 is less than the minimum"})]
    with pytest.raises(ConfigError, match="400 trials: -1 is less"):
        api.trigger("orders_retrain", {"trials": -1})


def test_a_missing_server_is_a_transient_error(tmp_path: Path) -> None:
    settings = Settings.load(home=tmp_path, airflow_port=1)
    with AirflowApi(settings, patience=0.3) as api, pytest.raises(TransientError, match=r":1 \(APEX_AIRFLOW_PORT\)"):
        api.dag_runs("orders_score")


def test_a_failing_server_is_retried_and_then_reported(airflow: Airflow, api: AirflowApi) -> None:
    airflow.answers["GET", "/dags/orders_score/dagRuns"] = [
        (502, {}),
        (200, {"dag_runs": []}),
        (500, {"detail": "oops"}),
    ]
    assert api.dag_runs("orders_score") == []
    with pytest.raises(TransientError, match="500 oops"):
        api.dag_runs("orders_score")


def test_unpause_waits_until_the_dag_is_known(airflow: Airflow, api: AirflowApi) -> None:
    airflow.answers["PATCH", "/dags/orders_score"] = [(404, {}), (200, {})]
    api.unpause("orders_score")
    with pytest.raises(TransientError, match="does not know the DAG apex_gone after 0 s"):
        api.unpause("apex_gone", wait_seconds=0)


def test_task_runs_reads_every_page(airflow: Airflow, api: AirflowApi) -> None:
    pages = [{"task_instances": [TASK, TASK], "total_entries": 3}, {"task_instances": [TASK], "total_entries": 3}]
    airflow.answers["GET", "/dags/orders_score/dagRuns/a%3Ab/taskInstances"] = [(200, page) for page in pages]
    tasks = api.task_runs("orders_score", "a:b")
    assert len(tasks) == 3
    assert tasks[0].name == "score [a.parquet +2]" and tasks[0].started is not None and not tasks[0].finished
    assert "offset=2" in airflow.requests[-1][1]


@pytest.mark.parametrize(("value", "result"), [({"skip": "no new"}, {"skip": "no new"}), ("text", None)])
def test_result(airflow: Airflow, api: AirflowApi, value: Any, result: Any) -> None:
    path = "/dags/orders_retrain/dagRuns/r/taskInstances/validate/xcomEntries/step_result"
    airflow.answers["GET", path] = [(200, {"value": value})]
    assert api.result("orders_retrain", "r", "validate") == result
    assert api.result("orders_retrain", "r", "elt") is None


def test_a_slow_request_is_repeated(airflow: Airflow, tmp_path: Path) -> None:
    settings = Settings.load(home=tmp_path, airflow_url=f"http://127.0.0.1:{airflow.server_port}")
    # as for `apex retrain`, whose timeout for an unavailable server is shorter than one slow answer
    with AirflowApi(settings, patience=0.1, slow_patience=5.0, timeout=0.3) as api:
        airflow.answers["GET", "/dags/orders_score/dagRuns"] = [(200, SLOW), (200, {"dag_runs": []})]
        assert api.dag_runs("orders_score") == []
        # the first request did start the run, and only its answer came too late
        airflow.answers["POST", "/dags/orders_retrain/dagRuns"] = [(200, SLOW), (409, {"detail": "exists"})]
        run_id = api.trigger("orders_retrain")
        bodies = [body for method, path, body in airflow.requests if path.endswith("/dagRuns") and method == "POST"]
        assert [body["dag_run_id"] for body in bodies] == [run_id, run_id]
    with AirflowApi(settings, patience=0.1, slow_patience=0.7, timeout=0.3) as api:
        airflow.answers["GET", "/dags/orders_score/dagRuns"] = [(200, SLOW)]
        with pytest.raises(TransientError, match=r"APEX_AIRFLOW_URL\) does not answer GET .* in 1 s"):
            api.dag_runs("orders_score")


PAUSED = {"event_log_id": 5, "event": "patch_dag", "owner": "ann", "extra": '{"is_paused": true, "method": "PATCH"}'}
ALL = {"event": "patch_dags", "owner": "bob"}


@pytest.mark.parametrize(
    ("event", "event_of_all", "runs", "who"),
    [
        ({}, {}, [], None),
        (PAUSED, {}, [], "ann"),
        (PAUSED | {"extra": '{"is_paused": false}'}, {}, [], None),
        (PAUSED | {"event": "delete_dag", "extra": '{"method": "DELETE"}'}, {}, [], None),
        (PAUSED | {"event": "paused", "owner": "scheduler", "extra": "[('is_paused', True)]"}, {}, [], "scheduler"),
        (PAUSED | {"event": "cli_dag_pause", "extra": '{"full_command": "airflow dags pause"}'}, {}, [], "ann"),
        # all DAGs together: the newer entry counts
        ({}, PAUSED | ALL, [], "bob"),
        (PAUSED | {"event": "delete_dag", "extra": None}, PAUSED | ALL | {"event_log_id": 6}, [], "bob"),
        (PAUSED | {"event": "delete_dag", "extra": None}, PAUSED | ALL | {"event_log_id": 4}, [], None),
        # the audit log was emptied
        ({}, {}, ["manual__1"], "somebody"),
        (PAUSED | {"extra": None}, {}, ["manual__1"], "somebody"),
    ],
)
def test_who_paused_a_dag(
    airflow: Airflow, api: AirflowApi, event: Any, event_of_all: Any, runs: list[str], who: str | None
) -> None:
    run = {"dag_id": "orders_score", "state": "success", "start_date": None, "end_date": None}
    answers = [(200, {"event_logs": [one] if one else []}) for one in (event, event_of_all)]
    airflow.answers["GET", "/eventLogs"] = answers
    result = [run | {"dag_run_id": run_id} for run_id in runs]
    airflow.answers["GET", "/dags/orders_score/dagRuns"] = [(200, {"dag_runs": result})]
    assert api.paused_by("orders_score") == who


@pytest.mark.parametrize(
    ("ran", "event", "kind"),
    [
        (False, None, "first run"),
        (False, PAUSED, "paused"),
        (True, None, "new"),
        # deleted after its first run: Airflow created it again, paused
        (True, PAUSED | {"event": "delete_dag"}, "new"),
        (True, PAUSED, "paused"),
    ],
)
def test_a_paused_retraining_waits_for_its_first_run_only(
    airflow: Airflow, api: AirflowApi, tmp_path: Path, ran: bool, event: Any, kind: str
) -> None:
    if ran:
        leave_manifest(tmp_path / "data" / "orders" / "processed" / "one", "validate", "2026-01-02", data_sha256="")
    entries = {
        "dags": [{"dag_id": name, "is_paused": name == "orders_retrain"} for name in DAGS],
        "pools": [{"name": name, "slots": 1} for name in airflow_state.POOLS],
        "import_errors": [],
    }
    for name, rows in entries.items():
        path = "/importErrors" if name == "import_errors" else f"/{name}"
        airflow.answers["GET", path] = [(200, {name: rows, "total_entries": len(rows)})]
    airflow.answers["GET", "/eventLogs"] = [(200, {"event_logs": [event] if event else []})]
    airflow.answers["GET", "/dags/orders_retrain/dagRuns"] = [(200, {"dag_runs": []})]
    airflow.answers["PATCH", "/dags/orders_retrain"] = [(200, {})]
    write_pipelines(tmp_path / "pipelines", ["orders"])
    settings = Settings.load(home=tmp_path, pipelines=tmp_path / "pipelines")
    (result,) = findings(settings, api)
    assert result.kind == kind
    message: list[str] = []
    airflow_state.repair(settings, api, message.append)
    switched_on = ("PATCH", "/api/v2/dags/orders_retrain", {"is_paused": False}) in airflow.requests
    assert switched_on == (kind == "new") and bool(message) == (kind != "first run")


@pytest.mark.parametrize(
    ("dags", "errors", "pools", "expected"),
    [
        ({}, {}, {}, []),
        (
            {"orders_score": None},
            {},
            {},
            ["DAG orders_score is not in Airflow: it was deleted, or not read yet | make up"],
        ),
        ({"orders_score": True}, {}, {}, ["DAG orders_score is paused by ann | apex unpause orders_score"]),
        ({"orders_shadow": True}, {}, {}, []),
        (
            {"orders_score": None},
            {"score.py": "Traceback\n  File\nValueError: no such zone\n\n"},
            {},
            [
                "DAG file score.py does not parse: ValueError: no such zone"
                " | correct it; its log: make logs S=airflow-dag-processor"
            ],
        ),
        ({}, {}, {"apex_scoring": None}, ["pool apex_scoring does not exist, so its tasks wait forever | make up"]),
        ({}, {}, {"apex_scoring": 0}, ["pool apex_scoring has no slot, so its tasks wait forever | make up"]),
        ({}, {}, {"apex_scoring": 1, "apex_training": -1}, []),
    ],
)
def test_findings(
    airflow: Airflow,
    api: AirflowApi,
    tmp_path: Path,
    dags: dict[str, bool | None],
    errors: dict[str, str],
    pools: dict[str, int | None],
    expected: list[str],
) -> None:
    """Each is a change of a platform that is well; None is what was deleted."""
    paused = dict.fromkeys(DAGS, False) | dags
    slots = {name: created for name, (created, _) in airflow_state.POOLS.items()} | pools
    entries: dict[str, list[Any]] = {
        "dags": [{"dag_id": name, "is_paused": value} for name, value in paused.items() if value is not None],
        "pools": [{"name": name, "slots": value} for name, value in slots.items() if value is not None],
        "importErrors": [{"filename": name, "stack_trace": text} for name, text in errors.items()],
    }
    for name, rows in entries.items():
        key = "import_errors" if name == "importErrors" else name
        airflow.answers["GET", f"/{name}"] = [(200, {key: rows, "total_entries": len(rows)})]
    airflow.answers["GET", "/eventLogs"] = [(200, {"event_logs": [PAUSED]})]
    write_pipelines(tmp_path / "pipelines", ["orders"])
    settings = Settings.load(home=tmp_path, pipelines=tmp_path / "pipelines")
    assert [f"{f.name} {f.problem} | {f.remedy}" for f in findings(settings, api)] == expected
