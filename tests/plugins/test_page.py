"""The Apex page: what it shows, to whom, and that nothing in the data can act on it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from airflow.api_fastapi.core_api.security import get_user
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from page_rows import fill
from throwaway_home import free_ports

from apex_airflow.web import create_app
from apex_ml.contract.model import Contract
from apex_ml.settings import Settings

EVIL = "<script>alert(1)</script>'\"; DROP TABLE apex.drops; --"
Open = Callable[..., TestClient]


@pytest.fixture
def visit(monkeypatch: pytest.MonkeyPatch) -> Open:
    """Make a client of the page of these settings, logged in with a role of Airflow's simple auth manager."""
    for place in ("airflow.api_fastapi.core_api.security", "apex_airflow.web"):
        monkeypatch.setattr(f"{place}.get_auth_manager", SimpleAuthManager)

    def make(settings: Settings, role: str | None = "ADMIN") -> TestClient:
        app = create_app(settings)
        if role:
            app.dependency_overrides[get_user] = lambda: SimpleAuthManagerUser(username=role.lower(), role=role)
        return TestClient(app, follow_redirects=False)

    return make


@pytest.fixture
def empty(databases: Any, home: Any) -> Settings:
    found: Settings = home(**databases.migrated())
    return found


@pytest.fixture(scope="module")
def filled(lasting_databases: Any, contract: Contract, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """An older platform: its rows are only looked at."""
    settings = Settings.load(home=tmp_path_factory.mktemp("home"), **lasting_databases.migrated())
    fill(settings, contract.classes)
    yield settings


def write(settings: Settings, statement: str, *values: object) -> None:
    with closing(psycopg2.connect(settings.writer_url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(statement, values)


def test_every_route_refuses_anonymous_people(empty: Settings, visit: Open) -> None:
    client = visit(empty, role=None)
    paths = [route.path for route in client.app.routes if isinstance(route, APIRoute)]  # type: ignore[attr-defined]
    assert {"/", "/static/{name}", "/data-docs", "/data-docs/{path:path}"} <= set(paths)
    assert len(paths) == len(client.app.routes)  # type: ignore[attr-defined]  # nothing is mounted beside them
    for path in paths:
        for method in ("GET", "POST", "HEAD"):
            status = client.request(method, path.replace("{name}", "page.css").replace("{path:path}", "x")).status_code
            assert status == 401 or (method != "GET" and status == 405), (method, path, status)


def test_an_empty_platform_says_what_to_do(empty: Settings, visit: Open) -> None:
    answer = visit(empty).get("/")
    assert answer.status_code == 200
    for told in ("There is no champion yet", "make train", "make run", "No decision yet", "Nothing needs attention"):
        assert told in answer.text, told


def test_the_page_tells_of_model_drops_and_alerts(filled: Settings, visit: Open) -> None:
    text = visit(filled).get("/").text
    for told in (
        "Champion: <a",
        "/versions/3",
        "For 9 days",
        "+0.0031 nats",
        "+0.0022 to +0.0040",
        "surely at least +0.0021",
        "Challenger: <a",
        "Turned down 24 hours ago",
        "PSI 0.41 against the training data",
        "the column of the client is missing",
        "23 minutes ago",
    ):
        assert told in text, told
    assert "no drop for 26 hours" not in text  # it is over


def test_waiting_drops_are_counted(empty: Settings, visit: Open) -> None:
    inbox = Path(empty.drops) / "inbox"
    inbox.mkdir(parents=True)
    for name in ("a.parquet", "b.parquet", ".hidden", "c.tmp"):
        (inbox / name).write_text("x")
    assert "<dt>waiting</dt><dd>2</dd>" in visit(empty).get("/").text


def test_without_postgres_the_page_says_so(home: Any, visit: Open) -> None:
    (port,) = free_ports(1)
    settings = home(reader_database_url=f"postgresql://apex_reader:secret@127.0.0.1:{port}/apex")
    answer = visit(settings).get("/")
    assert answer.status_code == 503
    assert f"Postgres at 127.0.0.1:{port}/apex" in answer.text and "make up" in answer.text
    assert "secret" not in answer.text and "Traceback" not in answer.text


def test_texts_from_outside_are_shown_and_do_nothing(empty: Settings, visit: Open) -> None:
    write(
        empty,
        "INSERT INTO apex.drops (sha256, name, bytes, state, reason) VALUES (repeat('a', 64), %s, 1, 'failed', %s)",
        EVIL + "drop",
        EVIL + "reason",
    )
    write(
        empty,
        "INSERT INTO apex.alerts (kind, subject, message) VALUES (%s, %s, %s)",
        EVIL + "kind",
        EVIL + "subject",
        EVIL + "message",
    )
    write(
        empty,
        "INSERT INTO apex.promotions (model_name, action, from_version, to_version, state, step_run, who, reasons)"
        " VALUES (%s, 'reject', 1, 2, 'done', %s, %s, ARRAY[%s])",
        empty.model_name,
        EVIL + "run",
        EVIL + "who",
        EVIL + "why",
    )
    answer = visit(empty).get("/")
    assert answer.status_code == 200
    assert "<script>alert" not in answer.text
    for place in ("drop", "reason", "kind", "subject", "message", "who", "why"):
        assert f"&lt;script&gt;alert(1)&lt;/script&gt;&#39;&#34;; DROP TABLE apex.drops; --{place}" in answer.text, (
            place
        )
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy


@pytest.mark.parametrize("path", ["../page.py", "..%2fpage.py", "%2e%2e/web.py", "/etc/passwd", "page.css%00", "x"])
def test_nothing_but_the_files_of_the_page_is_served(empty: Settings, visit: Open, path: str) -> None:
    assert visit(empty).get(f"/static/{path}").status_code == 404


def test_the_page_is_quick_with_ten_thousand_runs(
    lasting_databases: Any, contract: Contract, home: Any, visit: Open
) -> None:
    settings = home(**lasting_databases.migrated())
    fill(settings, contract.classes, runs=10_000)
    client = visit(settings)
    client.get("/")
    took = []
    for _ in range(5):
        began = time.perf_counter()
        assert client.get("/").status_code == 200
        took.append(time.perf_counter() - began)
    print("took", sorted(took))
    assert min(took) < 0.9  # the promise is 0.3 s, which the bench measures; others may be at work beside this test
