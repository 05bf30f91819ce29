"""The client of Airflow's REST API against a small HTTP server with Airflow's manners."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from apex_ml.errors import ConfigError, TransientError
from apex_ml.platform.airflow_api import AirflowApi
from apex_ml.settings import Settings

TASK = {
    "task_id": "score",
    "map_index": 0,
    "rendered_map_index": "a.parquet +2",
    "state": "running",
    "try_number": 1,
    "start_date": "2026-01-02T03:04:05.123456Z",
    "duration": None,
}


class Airflow(ThreadingHTTPServer):
    """Answers by (method, path) from a table; a list of answers is used up one by one, the last stays."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[tuple[str, str], list[tuple[int, Any]]] = {
            ("POST", "/auth/token"): [(201, {"access_token": "t"})]
        }
        self.seen: list[tuple[str, str, Any]] = []


class Handler(BaseHTTPRequestHandler):
    """Keeps what was asked and gives the next answer."""

    server: Airflow

    def answer(self) -> None:
        path = self.path.partition("?")[0].removeprefix("/api/v2")
        length = int(self.headers.get("Content-Length") or 0)
        self.server.seen.append((self.command, self.path, json.loads(self.rfile.read(length) or "null")))
        answers = self.server.answers.get((self.command, path), [(404, {"detail": f"no {path}"})])
        status, body = answers.pop(0) if len(answers) > 1 else answers[0]
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
        server.shutdown()
        thread.join()


@pytest.fixture
def api(airflow: Airflow, tmp_path: Path) -> Iterator[AirflowApi]:
    """A client of that server with little patience."""
    settings = Settings.load(
        home=tmp_path, airflow_url=f"http://127.0.0.1:{airflow.server_port}", airflow_admin_password="secret"
    )
    with AirflowApi(settings, patience=1.0) as client:
        yield client


def test_trigger_uses_a_new_id_each_time_and_survives_its_own_repetition(airflow: Airflow, api: AirflowApi) -> None:
    airflow.answers["POST", "/dags/apex_retrain/dagRuns"] = [(200, {}), (503, {}), (409, {"detail": "exists"})]
    first = api.trigger("apex_retrain", {"force": True})
    second = api.trigger("apex_retrain")
    assert first != second
    bodies = [body for method, path, body in airflow.seen if path.endswith("/dagRuns")]
    assert [body["dag_run_id"] for body in bodies] == [first, second, second]
    assert bodies[0]["conf"] == {"force": True} and bodies[0]["logical_date"] is None


def test_an_expired_token_is_renewed_once(airflow: Airflow, api: AirflowApi) -> None:
    airflow.answers["GET", "/dags/apex_score/dagRuns"] = [(200, {"dag_runs": []}), (401, {}), (200, {"dag_runs": []})]
    assert api.dag_runs("apex_score") == [] and api.dag_runs("apex_score") == []
    assert [path for _, path, _ in airflow.seen].count("/auth/token") == 2


def test_a_refused_password_names_the_setting_and_not_the_password(airflow: Airflow, api: AirflowApi) -> None:
    airflow.answers["POST", "/auth/token"] = [(401, {"detail": "no"})]
    with pytest.raises(ConfigError, match="APEX_AIRFLOW_ADMIN_PASSWORD") as caught:
        api.dag_runs("apex_score")
    assert "secret" not in str(caught.value)


def test_a_refusal_is_told_with_its_reason(airflow: Airflow, api: AirflowApi) -> None:
    airflow.answers["POST", "/dags/apex_retrain/dagRuns"] = [(400, {"detail": "trials: -1 is less than the minimum"})]
    with pytest.raises(ConfigError, match="400 trials: -1 is less"):
        api.trigger("apex_retrain", {"trials": -1})


def test_nobody_answers(tmp_path: Path) -> None:
    settings = Settings.load(home=tmp_path, airflow_port=1)
    with AirflowApi(settings, patience=0.3) as api, pytest.raises(TransientError, match=r":1 \(APEX_AIRFLOW_PORT\)"):
        api.dag_runs("apex_score")


def test_a_server_in_trouble_is_asked_again_and_then_told(airflow: Airflow, api: AirflowApi) -> None:
    airflow.answers["GET", "/dags/apex_score/dagRuns"] = [(502, {}), (200, {"dag_runs": []}), (500, {"detail": "oops"})]
    assert api.dag_runs("apex_score") == []
    with pytest.raises(TransientError, match="500 oops"):
        api.dag_runs("apex_score")


def test_unpause_waits_until_the_dag_is_known(airflow: Airflow, api: AirflowApi) -> None:
    airflow.answers["PATCH", "/dags/apex_score"] = [(404, {}), (200, {})]
    api.unpause("apex_score")
    with pytest.raises(TransientError, match="does not know the DAG apex_gone after 0 s"):
        api.unpause("apex_gone", wait_seconds=0)


def test_task_runs_reads_every_page(airflow: Airflow, api: AirflowApi) -> None:
    pages = [{"task_instances": [TASK, TASK], "total_entries": 3}, {"task_instances": [TASK], "total_entries": 3}]
    airflow.answers["GET", "/dags/apex_score/dagRuns/a%3Ab/taskInstances"] = [(200, page) for page in pages]
    tasks = api.task_runs("apex_score", "a:b")
    assert len(tasks) == 3
    assert tasks[0].name == "score [a.parquet +2]" and tasks[0].started is not None and not tasks[0].finished
    assert "offset=2" in airflow.seen[-1][1]


@pytest.mark.parametrize(("value", "result"), [({"skip": "no new"}, {"skip": "no new"}), ("text", None)])
def test_result(airflow: Airflow, api: AirflowApi, value: Any, result: Any) -> None:
    path = "/dags/apex_retrain/dagRuns/r/taskInstances/validate/xcomEntries/step_result"
    airflow.answers["GET", path] = [(200, {"value": value})]
    assert api.result("apex_retrain", "r", "validate") == result
    assert api.result("apex_retrain", "r", "elt") is None
