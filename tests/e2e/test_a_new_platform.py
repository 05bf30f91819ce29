"""A new platform answers, reports what a user or a drop has broken, and is repaired."""

from __future__ import annotations

import contextlib
import json
import re
import urllib.error
import urllib.request
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import psycopg2
import pytest
from click.testing import CliRunner

from apex_ml.adapters.postgres.drops import FailedDrop
from apex_ml.adapters.postgres.failed_drops import fail_drop
from apex_ml.cli import platform
from apex_ml.pipeline_settings import load_pipeline_settings
from apex_ml.platform import airflow_state
from apex_ml.platform.embedded import health, processes, start, supervision, supervisor_client
from apex_ml.settings import Settings
from tests.support.schema import SCHEMA
from tests.support.throwaway_home import ports_of
from tests.support.waiting import until


def _call(settings: Settings, path: str, data: object = None, token: str = "") -> object:
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}
    body = None if data is None else json.dumps(data).encode()
    with urllib.request.urlopen(urllib.request.Request(settings.airflow + path, body, headers), timeout=30) as answer:
        return json.load(answer)


def _token(settings: Settings, user: str) -> str:
    password = getattr(settings, f"airflow_{user}_password").get_secret_value()
    answer = _call(settings, "/auth/token", {"username": user, "password": password})
    assert isinstance(answer, dict)
    return str(answer["access_token"])


@dataclass(frozen=True)
class Admin:
    """What the admin does in Airflow's UI."""

    settings: Settings
    token: str

    def act(self, method: str, path: str, data: object = None) -> Any:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.token}"}
        body = None if data is None else json.dumps(data).encode()
        request = urllib.request.Request(f"{self.settings.airflow}/api/v2{path}", body, headers, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read() or "null")

    def is_paused(self, dag_id: str) -> bool:
        return bool(self.act("GET", f"/dags/{dag_id}")["is_paused"])

    def file_of(self, dag_id: str) -> str:
        return str(self.act("GET", f"/dags/{dag_id}")["file_token"])

    def parse(self, file: str) -> None:
        """Have a file of DAGs parsed next."""
        self.act("PUT", f"/parseDagFile/{file}")


def checked() -> str:
    """What `apex status --check` prints when it finds a fault."""
    status = CliRunner().invoke(platform.status, ["--check"])
    assert status.exit_code == 20, status.output
    return " ".join(status.output.split())


def faults_are_named_and_repaired(home: Path, admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the running platform, which a person has changed in Airflow's UI and where a drop has failed."""
    admin.act("PATCH", "/dags/orders_score", {"is_paused": True})
    assert "DAG orders_score is paused by admin apex unpause orders_score" in checked()
    for pool in ("apex_scoring", "apex_monitoring"):
        admin.act("DELETE", f"/pools/{pool}")
    for pool, slots in (("apex_training", 0), ("apex_champion", 3)):
        admin.act("PATCH", f"/pools/{pool}", {"pool": pool, "slots": slots, "include_deferred": False})

    def without_dag() -> str:
        """The status while a deleted DAG is gone; its file is parsed again soon, on a busy machine before that."""
        with contextlib.suppress(urllib.error.HTTPError):
            admin.act("DELETE", "/dags/orders_monitor")
        output = checked()
        return output if "DAG orders_monitor" in output else ""

    output = until(without_dag, 120, "orders_monitor is missing")
    assert "pool apex_scoring does not exist" in output and "pool apex_monitoring does not exist" in output
    assert "pool apex_training has no slot" in output and "pool apex_champion" not in output
    assert "DAG orders_monitor is not in Airflow" in output

    up = CliRunner().invoke(platform.up)
    assert up.exit_code == 0 and "already runs" in up.output, up.output
    assert "DAG orders_score is paused by admin" in up.output
    sizes = {pool["name"]: pool["slots"] for pool in admin.act("GET", "/pools")["pools"]}
    created = {name: slots for name, (slots, _) in airflow_state.POOLS.items()}
    assert {name: sizes[name] for name in created} == created | {"apex_champion": 3}
    assert (
        admin.is_paused("orders_score") and admin.is_paused("orders_retrain") and not admin.is_paused("orders_monitor")
    )

    # switched off by Airflow itself when it creates a DAG, as every release before did
    with closing(
        psycopg2.connect(admin.settings.postgres_url("airflow", admin.settings.pg_airflow_password, "airflow"))
    ) as base:
        with base, base.cursor() as cursor:
            cursor.execute("UPDATE dag SET is_paused = true WHERE dag_id = 'orders_rollback'")
    assert "DAG orders_rollback is paused since Airflow created it" in checked()
    assert CliRunner().invoke(platform.unpause, ["orders_score"]).exit_code == 0
    up = CliRunner().invoke(platform.up)
    assert (
        "it is on now" in up.output and not admin.is_paused("orders_rollback") and not admin.is_paused("orders_score")
    )
    assert CliRunner().invoke(platform.status, ["--check"]).exit_code == 0

    inbox = home / "data" / "orders" / "drops" / "inbox"
    (inbox / "a.parquet").write_bytes(b"PAR1")
    waiting = CliRunner().invoke(platform.status).output
    assert (
        "drops waiting: 1 (a.parquet)" in waiting
        and "they wait for the first champion: `apex -p orders retrain`" in waiting
    )

    fail_drop(admin.settings, SCHEMA, FailedDrop("0" * 64, "[red].parquet", 7, "no parquet [/red] file"))
    output = checked()
    assert "failed drops: 1" in output and "1 [red].parquet no parquet [/red] file" in output
    assert str(inbox) in output

    monkeypatch.setenv("APEX_ORDERS__SCORING__CHUNK_DROPS", "1000")  # wins over .env, which the DAGs read
    pipeline = load_pipeline_settings(admin.settings)
    files = [admin.file_of(dag_id) for dag_id in airflow_state.needed_dags(pipeline).values()]
    env = home / ".env"
    as_it_was = env.read_text()
    env.write_text(f"{as_it_was}APEX_ORDERS__SCORING__CHUNK_DROPS=many\n")
    admin.parse(admin.file_of("orders_score"))
    # the other files follow when their turn comes
    until(
        lambda: airflow_state.UNREADABLE in [e["filename"] for e in admin.act("GET", "/importErrors")["import_errors"]],
        60,
    )
    assert re.search("DAG file unreadable_pipelines.py does not parse: .*APEX_ORDERS__SCORING__CHUNK_DROPS", checked())

    # for the tests that follow on this platform
    env.write_text(as_it_was)
    (inbox / "a.parquet").unlink()
    for file in files:
        admin.parse(file)
    until(lambda: not admin.act("GET", "/importErrors")["import_errors"], 60)


@pytest.mark.platform
@pytest.mark.timeout(600)
def test_a_platform_comes_up_and_answers(new_platform: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, home = new_platform, new_platform.home
    states = health.check(settings, supervision.services(settings))
    assert {name: one.ok for name, one in states.items()} == dict.fromkeys(supervision.services(settings), True)

    admin, viewer = _token(settings, "admin"), _token(settings, "viewer")
    pools = _call(settings, "/api/v2/pools", token=admin)
    assert isinstance(pools, dict)
    slots = {pool["name"]: pool["slots"] for pool in pools["pools"]}
    assert {name: slots[name] for name in airflow_state.POOLS} == {n: s for n, (s, _) in airflow_state.POOLS.items()}
    with pytest.raises(urllib.error.HTTPError, match="403"):
        _call(settings, "/api/v2/pools", {"name": "mine", "slots": 1}, viewer)
    with pytest.raises(urllib.error.HTTPError, match="401"):
        _call(settings, "/auth/token", {"username": "admin", "password": "wrong"})

    family = processes.family(settings)
    addresses = set()
    secrets = [settings.pg_airflow_password, settings.pg_mlflow_password, settings.airflow_jwt_secret]
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):  # a task that has ended meanwhile
            connections = process.net_connections(kind="inet")
            addresses |= {connection.laddr.ip for connection in connections if connection.status == "LISTEN"}
            command = " ".join(process.cmdline())
            assert not any(secret.get_secret_value() in command for secret in secrets)
    assert addresses == {"127.0.0.1"}

    # a second `up` leaves everything alone, also with another platform's shell around it
    before = supervisor_client.Supervisor(settings).states()
    start.up(Settings.load(home=home, **ports_of(settings)))
    assert {s.pid for s in supervisor_client.Supervisor(settings).states().values()} == {s.pid for s in before.values()}

    monkeypatch.setenv("APEX_HOME", str(home))
    for name, port in ports_of(settings).items():
        monkeypatch.setenv(f"APEX_{name.upper()}", str(port))
    status = CliRunner().invoke(platform.status, ["--check"])
    assert status.exit_code == 0, status.output
    assert "champion: none yet" in status.output and "drops waiting: 0" in status.output
    # scoring is on before the first run; what waits for it is named with the command
    assert re.search("DAG orders_retrain +is paused until the first run +make run P=orders", status.output), (
        status.output
    )
    assert "orders_score" not in status.output
    for folder in ("raw", "drops/inbox", "drops/done", "drops/quarantine"):
        assert (home / "data" / "orders" / folder).is_dir()
    faults_are_named_and_repaired(home, Admin(settings, admin), monkeypatch)
    assert CliRunner().invoke(platform.mlflow_ui).output.strip() == settings.tracking_uri
