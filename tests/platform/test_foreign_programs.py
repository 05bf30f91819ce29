"""Another program on the port of a service: a program without HTTP, a silent program, another web server."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from apex_ml.adapters.mlflow.registry import Registry
from apex_ml.adapters.postgres import bulk, connection
from apex_ml.errors import ApexError, ConfigError, TransientError
from apex_ml.pipelines import load_pipeline
from apex_ml.platform.airflow_api import AirflowApi
from apex_ml.platform.embedded import health
from apex_ml.platform.reports import status
from apex_ml.serving.client import Target
from apex_ml.serving.loadtest_rows import model_of
from apex_ml.settings import Settings
from tests.support.schema import SCHEMA

HTML = b"<html>[/red] somebody else</html>"
ANSWERS = {
    "garbage": b"\x00\xff[/red] 220 mail.example ESMTP\r\n\r\n" * 3,
    "half": b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nshort",
    "many headers": b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 500 + b"\r\n",
    "web": b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n%s" % (len(HTML), HTML),
    "list": b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n[]",
    "silent": b"",
}
SETTINGS = ("APEX_AIRFLOW_PORT", "APEX_MLFLOW_PORT", "APEX_SERVING_PORT", "APEX_PG_PORT")
SERVICES = ("airflow-api-server", "mlflow", "serving", "postgres")


class Stranger(socketserver.ThreadingTCPServer):
    """Sends the same bytes to every client, after the first line of a request if it is an HTTP answer."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, answer: bytes) -> None:
        self.answer, self.over = answer, threading.Event()
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(socketserver.BaseRequestHandler):
    """One connection."""

    server: Stranger

    def handle(self) -> None:
        with contextlib.suppress(OSError):
            if self.server.answer:
                self.request.recv(65536)
                self.request.sendall(self.server.answer)
            else:
                self.server.over.wait(60)


PORTS = ("airflow_port", "mlflow_port", "serving_port", "pg_port")


@contextlib.contextmanager
def foreign_programs(kind: str) -> Iterator[dict[str, int]]:
    """One on each port of a platform."""
    with contextlib.ExitStack() as stack:
        yield {name: stack.enter_context(stranger(kind)) for name in PORTS}


@contextlib.contextmanager
def stranger(kind: str) -> Iterator[int]:
    with Stranger(ANSWERS[kind]) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.over.set()
            server.shutdown()
            thread.join()


@pytest.fixture(params=list(ANSWERS))
def ports(request: pytest.FixtureRequest) -> Iterator[dict[str, int]]:
    """The ports where each kind listens."""
    with foreign_programs(request.param) as instance:
        yield instance


def on(ports: dict[str, int], home: Path, **more: Any) -> Settings:
    """Settings of a platform all of whose ports another program has."""
    return Settings.load(home=home, airflow_admin_password="secret", **ports, **more)


def test_health_names_port_setting_holder_and_remedy(
    ports: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setattr(health, "TIMEOUT", 0.3)
    states = health.check(on(ports, tmp_path), SERVICES)
    web = request.node.callspec.params["ports"] in ("web", "list")
    for service, setting, port in zip(SERVICES, SETTINGS, ports.values(), strict=True):
        if web and service in ("mlflow", "serving"):  # it answers as a healthy server does
            continue
        detail = states[service].detail
        assert states[service].ok is False and f"port {port} ({setting})" in detail, detail
        assert f"pid {os.getpid()}" in detail and "make up" in detail and str(tmp_path / ".env") in detail


def test_status_shows_foreign_programs_as_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "TIMEOUT", 0.3)
    out = io.StringIO()
    with foreign_programs("garbage") as ports:
        url = f"http://127.0.0.1:{ports['mlflow_port']}"
        elsewhere = on(ports, tmp_path, airflow_url=url, mlflow_tracking_uri=url, pg_host="127.0.0.1", serving=False)
        assert status.show(elsewhere, Console(file=out, width=300)) is False
    shown = out.getvalue()
    assert shown.count("answers something else than HTTP") >= 2 and "[/red] 220 mail" in shown
    assert f"APEX_MLFLOW_TRACKING_URI={url} is not the address of MLflow" in shown


@pytest.mark.parametrize("kind", ["garbage", "half", "web", "list", "silent"])
def test_clients_of_the_services_name_the_setting(kind: str, tmp_path: Path) -> None:
    with foreign_programs(kind) as ports:
        settings = on(ports, tmp_path)
        calls = {"APEX_AIRFLOW_PORT": lambda: _airflow(settings)}
        if kind != "silent":  # their timeout is long
            calls["APEX_SERVING_PORT"] = lambda: model_of(Target(settings.serving_url), "orders")
            calls["APEX_PG_PORT"] = lambda: connection.ping(settings)
            calls["APEX_MLFLOW_PORT"] = lambda: Registry(settings, load_pipeline(settings).model_name).by_alias(
                "champion"
            )
        for setting, call in calls.items():
            with pytest.raises(ApexError) as caught:
                call()
            assert isinstance(caught.value, TransientError | ConfigError)
            assert setting in str(caught.value) and "make up" in str(caught.value)


def _airflow(settings: Settings) -> None:
    with AirflowApi(settings, patience=0.2, slow_patience=0.5, timeout=0.3) as api:
        api.dags()


@pytest.mark.parametrize("kind", ["garbage", "silent"])
def test_bulk_writes_do_not_wait_for_a_foreign_program(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "CONNECT_SECONDS", 2)  # the least that libpq takes
    with (
        foreign_programs(kind) as ports,
        pytest.raises(TransientError, match="APEX_PG_PORT.* nothing was written.*make up"),
        bulk.bulk_transaction(on(ports, tmp_path), SCHEMA),
    ):
        pass


@pytest.mark.parametrize("kind", ["garbage", "many headers", "half"])
def test_a_load_test_counts_answers_of_a_foreign_program_as_failures(kind: str) -> None:
    async def ask(port: int) -> None:
        target = Target(f"http://127.0.0.1:{port}")
        connection = await target.connect()
        try:
            await connection.ask(target.request("POST", "/predict", b"{}"), timeout=5)
        finally:
            connection.close()

    with stranger(kind) as port:
        if kind == "many headers":  # odd, but HTTP
            asyncio.run(ask(port))
        else:
            with pytest.raises(ConnectionError):
                asyncio.run(ask(port))
