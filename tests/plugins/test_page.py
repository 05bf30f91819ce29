"""The Apex page: what it shows, to whom, and that nothing in the data can act on it."""

from __future__ import annotations

import doctest
import re
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import psycopg2
import pytest
from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from airflow.api_fastapi.core_api.security import get_user
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from markupsafe import Markup

from apex_airflow.pages import charts, drift, formats, overview, predictions, quality, rendering
from apex_airflow.pages.web import create_app
from apex_ml.contract.model import Contract
from apex_ml.pipelines import load_pipeline
from apex_ml.settings import Settings
from tests.support.page_rows import fill
from tests.support.throwaway_home import free_ports

EVIL = "<script>alert(1)</script>'\"; DROP TABLE orders.drops; --"
Open = Callable[..., TestClient]


@pytest.fixture
def visit(monkeypatch: pytest.MonkeyPatch) -> Open:
    """Make a client of the page of these settings, logged in with a role of Airflow's simple auth manager."""
    for place in ("airflow.api_fastapi.core_api.security", "apex_airflow.pages.web"):
        monkeypatch.setattr(f"{place}.get_auth_manager", SimpleAuthManager)

    def make(settings: Settings, role: str | None = "ADMIN") -> TestClient:
        app = create_app(settings)
        if role:
            app.dependency_overrides[get_user] = lambda: SimpleAuthManagerUser(username=role.lower(), role=role)
        return TestClient(app, follow_redirects=False)

    return make


@pytest.fixture
def empty(databases: Any, home: Any) -> Settings:
    settings: Settings = home(**databases.migrated())
    return settings


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
    assert {"/", "/{name}", "/metrics", "/static/{name}", "/data-docs", "/data-docs/{path:path}"} <= set(paths)
    assert len(paths) == len(client.app.routes)  # type: ignore[attr-defined]  # nothing is mounted beside them
    for path in paths:
        for method in ("GET", "POST", "HEAD"):
            status = client.request(
                method,
                path.replace("static/{name}", "static/page.css")
                .replace("{name}", "orders")
                .replace("{path:path}", "x"),
            ).status_code
            assert status == 401 or (method != "GET" and status == 405), (method, path, status)


def test_an_empty_platform_says_what_to_do(empty: Settings, visit: Open) -> None:
    answer = visit(empty).get("/orders")
    assert answer.status_code == 200
    for text in (
        "There is no champion yet",
        "apex -p orders retrain",
        "make run",
        "No decision yet",
        "Nothing needs attention",
    ):
        assert text in answer.text, text


def test_the_page_shows_model_drops_and_alerts(filled: Settings, visit: Open) -> None:
    text = visit(filled).get("/orders").text
    for expected in (
        "Champion: <a",
        "/versions/3",
        "For 9 days",
        '/#/experiments/7/runs/run-3/artifacts/profile.html" data-out>Data profile</a>',
        "+0.00312 nats",
        "+0.00220 to +0.00404",
        "lower bound of the gate +0.00208",
        "Challenger: <a",
        "Rejected 24 hours ago",
        "PSI 0.41 against the training data",
        "the column of the client is missing",
        "23 minutes ago",
        'title="100.0% of region is unknown to the model, 0.0% in training">unknown values</span>',
    ):
        assert expected in text, expected
    assert "no drop for 26 hours" not in text  # it is over


def test_the_page_draws_mix_quality_and_drift(filled: Settings, visit: Open, contract: Contract) -> None:
    text = visit(filled).get("/orders").text
    assert "\\u" not in text and re.search(r"\d %", text)  # numbers of the page's own are no unseen characters
    assert text.count("<svg xmlns") == 5
    assert not re.search(r"<svg.*?(<script|<style|style=).*?</svg>", text, re.DOTALL)  # the page's policy refuses them
    for expected in (
        *(f"</span>{name} <span" for name in contract.classes),
        "expected at promotion, with its own interval as a band",
        "class prior of the week",
        '<span class="tag alarming">worse</span>',
        '<span class="tag">slightly worse</span>',
        '<span class="tag alarming">worse since ',
        "by +0.0163 nats on average",
        'title="worse from 0.9111">0.887 to 0.901<',
        "2,940 of 9,800",
        "days since the last order",
        " drifted",
        "too few rows for a test: 40 of at least 100",
        'aria-current="true">days of scoring<',
    ):
        assert expected in text, expected
    drops = visit(filled).get("/orders", params={"drift": "drop"}).text
    assert 'aria-current="true">drops<' in drops and "orders_" in drops[drops.index('class="heat"') :]
    assert (
        "No drift has been measured for online answers yet"
        in visit(filled).get("/orders", params={"drift": "online"}).text
    )
    assert visit(filled).get("/orders", params={"drift": "x'; DROP TABLE orders.drops; --"}).status_code == 422


def test_the_chart_of_a_week_shows_its_verdict(filled: Settings, visit: Open) -> None:
    """Every dot's color is the verdict that its interval, the band and the limit beside it show."""
    text = visit(filled).get("/orders").text
    quality = text[text.index('id="quality"') :]
    for chart in re.findall(r"<svg xmlns.*?</svg>", quality, re.DOTALL)[:2]:
        intervals = drawn(chart, 0)
        bands, limits = drawn(chart, 1), dict(line(chart, 3))
        assert len(intervals) == 12 and len(bands) == len(limits) == 11  # the oldest week was evaluated before bands
        verdicts = []
        for x, (_, bottom, mark) in intervals.items():
            if x not in bands:
                assert mark == ""
                continue
            observed = "worse" if bottom < limits[x] else "slightly-worse" if bottom < bands[x][0] else ""
            assert mark == observed, (x, bottom, limits[x], bands[x])
            verdicts.append(mark)
        assert (verdicts.count("worse"), verdicts.count("slightly-worse")) == (1, 3)


def drawn(chart: str, color: int) -> dict[float, tuple[float, float, str]]:
    """By horizontal place: top and bottom of what is drawn of a series' intervals, and the mark of its dot."""
    series = ElementTree.fromstring(chart).findall(f".//{{*}}g[@class='series serie-{color} color-{color}']")
    results = {}
    for group in series:
        for path in (p for p in group.iter() if p.get("class") in ("nofill reactive", "band")):
            n = [float(v) for v in re.findall(r"-?\d+\.?\d*", path.get("d", ""))]
            band = path.get("class") == "band"
            x, top, bottom = (round((n[0] + n[2]) / 2, 1), n[1], n[3]) if band else (round(n[0], 1), n[1], n[11])
            results[x] = (top, bottom, "")
        for dot in (c for c in group.iter() if c.tag.endswith("circle")):
            x = round(float(dot.get("cx", "0")), 1)
            if x in results:
                results[x] = (*results[x][:2], dot.get("class", "").removeprefix("dot reactive").strip())
    return {x: (*ends, mark if mark in ("worse", "slightly-worse") else "") for x, (*ends, mark) in results.items()}


def line(chart: str, color: int) -> list[tuple[float, float]]:
    """Points of a series' line."""
    series = ElementTree.fromstring(chart).findall(f".//{{*}}g[@class='series serie-{color} color-{color}']")
    paths = [p for group in series for p in group.iter() if "line" in p.get("class", "").split()]
    numbers = [float(v) for p in paths for v in re.findall(r"-?\d+\.?\d*", p.get("d", ""))]
    return [(round(x, 1), y) for x, y in zip(numbers[::2], numbers[1::2], strict=True)]


def test_the_colors_of_drift_show_its_verdict(empty: Settings, visit: Open) -> None:
    """Frame and warm color: drifted. A PSI that is 0.00 is not shown as one: the number is the effect."""
    rows = [
        ("large", 0.0009, 0.03, 0.001, True, 0.03),
        ("huge", 0.5, 0.7, 0.001, True, 0.1),
        ("significant trifle", 0.0001, 0.01, 1e-9, False, 0.03),
        ("noise", 0.02, 0.14, 0.4, False, 0.1),
        ("contradiction", 0.0, 0.001, 0.001, True, 0.03),
    ]
    for feature, psi, effect, q, drifted, least in rows:
        write(
            empty,
            "INSERT INTO orders.drift (scope, subject, day, feature, kind, rows, reference_rows, psi, effect, q_value,"
            " drifted, min_effect) VALUES ('day', 'd', current_date, %s, 'attribute', 10, 10, %s, %s, %s, %s, %s)",
            *(feature, psi, effect, q, drifted, least),
        )
    text = visit(empty).get("/orders").text
    matches = re.findall(r'<td class="(heat-[^"]*)" title="([^,]*),[^>]*>([^<]*)<', text)
    shown = {name: (css, number) for css, name, number in matches}
    assert shown == {
        "large": ("heat-3 drifted", "0.03"),
        "huge": ("heat-5 drifted", "0.70"),
        "significant trifle": ("heat-0", "0.01"),
        "noise": ("heat-1", "0.14"),
        "contradiction": ("heat-0", "0.00"),
    }


def test_a_platform_at_rest_for_months_keeps_its_colors(empty: Settings, visit: Open, contract: Contract) -> None:
    fill(empty, contract.classes)
    write(empty, "UPDATE orders.scoring_runs SET finished_at = finished_at - interval '90 days'")
    text = visit(empty).get("/orders").text
    for place, name in enumerate(contract.classes):
        assert f'<span class="key color-{place}"></span>{name}</li>' in text
        assert f'class="color-{place}"/>' in text


@pytest.mark.parametrize(("role", "shown"), [("ADMIN", True), ("VIEWER", False)])
def test_only_an_admin_sees_the_form(filled: Settings, visit: Open, role: str, shown: bool) -> None:
    text = visit(filled, role).get("/orders").text
    assert ('<form id="rollback"' in text) is shown
    assert ("version 1, champion until" in text) is shown
    assert 'value="3"' not in text and 'value="2"' not in text  # in charge; never was


def test_an_earlier_champion_can_be_selected(empty: Settings, visit: Open) -> None:
    for action, before, after, count in (
        ("promote", None, 1, 1),
        ("promote", 1, 2, 1),
        ("rollback", 2, 1, 1),
        ("force", 1, 5, 1),
        ("reject", 5, 6, 40),
    ):
        write(
            empty,
            "INSERT INTO orders.promotions (model_name, action, from_version, to_version, state,"
            " step_run, who, reasons)"
            " SELECT %s, %s, %s, %s + n, 'done', 'run' || n, 'ann', '{why}' FROM generate_series(0, %s - 1) AS n",
            *(load_pipeline(empty).model_name, action, before, after, count),
        )
    text = visit(empty).get("/orders").text
    options = re.findall(r'<option value="(\d*)">([^<]+?)(?: \d\d\d\d-.{11})?<', text)
    assert options == [("", "choose …"), ("1", "version 1, champion until"), ("2", "version 2, champion until")]
    assert "The gate has not evaluated this version." in text


def test_waiting_drops_are_counted(empty: Settings, visit: Open) -> None:
    inbox = Path(load_pipeline(empty).locations.drops) / "inbox"
    inbox.mkdir(parents=True)
    for name in ("a.parquet", "b.parquet", ".hidden", "c.tmp"):
        (inbox / name).write_text("x")
    (inbox / ".hidden-folder").mkdir()
    text = visit(empty).get("/orders").text
    assert "<dt>drops waiting</dt><dd>2</dd>" in text and "incomplete folders" not in text
    for name in ("<b>", "spark.parquet"):
        (inbox / name).mkdir()
    text = visit(empty).get("/orders").text
    assert "<dt>drops waiting</dt><dd>2</dd>" in text
    assert "<dt>incomplete folders</dt><dd>&lt;b&gt;, spark.parquet</dd>" in text


def test_without_postgres_the_page_says_so(home: Any, visit: Open) -> None:
    (port,) = free_ports(1)
    settings = home(reader_database_url=f"postgresql://apex_reader:secret@127.0.0.1:{port}/apex")
    answer = visit(settings).get("/orders")
    assert answer.status_code == 503
    assert f"Postgres at 127.0.0.1:{port}/apex" in answer.text and "make up" in answer.text
    assert "secret" not in answer.text and "Traceback" not in answer.text


def test_external_texts_are_shown_escaped(empty: Settings, visit: Open) -> None:
    write(
        empty,
        "INSERT INTO orders.drops (sha256, name, bytes, state, reason) VALUES (repeat('a', 64), %s, 1, 'failed', %s)",
        EVIL + "drop",
        EVIL + "reason",
    )
    write(
        empty,
        "INSERT INTO orders.alerts (kind, subject, message) VALUES (%s, %s, %s)",
        EVIL + "kind",
        EVIL + "subject",
        EVIL + "message",
    )
    write(
        empty,
        "INSERT INTO orders.promotions (model_name, action, from_version, to_version, state, step_run, who, reasons)"
        " VALUES (%s, 'reject', 1, 2, 'done', %s, %s, ARRAY[%s])",
        load_pipeline(empty).model_name,
        EVIL + "run",
        EVIL + "who",
        EVIL + "why",
    )
    write(
        empty,
        "INSERT INTO orders.drift (scope, subject, day, feature, kind, reference, rows, psi, drifted, note)"
        " VALUES ('day', %s, current_date, %s, 'history', %s, 10, 0.4, true, %s)",
        EVIL + "looked at",
        EVIL + "feature",
        EVIL + "reference",
        EVIL + "note",
    )
    write(
        empty,
        "INSERT INTO orders.model_quality (model_name, model_version, week, scored, outcomes, log_loss, worse, note)"
        " VALUES (%s, 1, current_date, 10, 5, 0.9, true, %s)",
        load_pipeline(empty).model_name,
        EVIL + "quality",
    )
    write(
        empty,
        "WITH d AS (INSERT INTO orders.drops (sha256, name, bytes, state) VALUES (repeat('b', 64), 'b', 1, 'done')"
        " RETURNING drop_id), r AS (INSERT INTO orders.scoring_runs (drop_id, step_run, model_name, model_version,"
        " mlflow_run_id, feature_snapshot, snapshot_as_of, rows_in, rows_scored, rows_quarantined, ms_total, ms_check,"
        " ms_features, ms_predict, ms_write, started_at, finished_at) SELECT drop_id, 'x', 'x', 1, 'x', 'x',"
        " current_date, 1, 1, 0, 1, 1, 1, 1, 1, now(), now() FROM d RETURNING run_id)"
        " INSERT INTO orders.scoring_run_classes (run_id, predicted, rows) SELECT run_id, %s, 1 FROM r",
        EVIL + "class",
    )
    answer = visit(empty).get("/orders")
    assert answer.status_code == 200
    assert "<script>alert" not in answer.text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in answer.text[answer.text.index("<svg") :]  # the chart's tooltips
    texts = ("drop", "reason", "kind", "subject", "message", "who", "why", "looked at", "feature", "reference", "note")
    for place in (*texts, "quality", "class"):
        assert f"&lt;script&gt;alert(1)&lt;/script&gt;&#39;&#34;; DROP TABLE orders.drops; --{place}" in answer.text, (
            place
        )
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy


@pytest.mark.parametrize("path", ["../page.py", "..%2fpage.py", "%2e%2e/web.py", "/etc/passwd", "page.css%00", "x"])
def test_nothing_but_the_files_of_the_page_is_served(empty: Settings, visit: Open, path: str) -> None:
    assert visit(empty).get(f"/static/{path}").status_code == 404


def seconds(client: TestClient, shown: str) -> float:
    """How long an answer takes."""
    began = time.perf_counter()
    assert client.get(shown).status_code == 200
    return time.perf_counter() - began


def test_the_page_is_quick_with_ten_thousand_runs(
    lasting_databases: Any, contract: Contract, home: Any, visit: Open
) -> None:
    settings = home(**lasting_databases.migrated())
    fill(settings, contract.classes, runs=10_000)
    client = visit(settings)
    client.get("/orders")
    for shown in ("/orders", "/orders?drift=drop"):
        # the promise is 0.3 s, which the bench measures; others may be at work beside this test
        took = [seconds(client, shown)]
        while min(took) >= 0.9 and len(took) < 20:
            took.append(seconds(client, shown))
        assert min(took) < 0.9, (shown, took)


@pytest.mark.parametrize("module", [charts, drift, formats, overview, predictions, quality, rendering])
def test_examples(module: ModuleType) -> None:
    assert doctest.testmod(module).failed == 0


def test_names_with_characters_that_cannot_be_seen_are_shown_with_them() -> None:
    template = rendering.ENVIRONMENT.from_string("{{ name }} {{ '<b>' }} {{ html }} {{ 1 }}")
    text = template.render(name="a\u200b&.parquet", html=Markup("<b>\u200b</b>"))
    assert text == "a\\u200b&amp;.parquet &lt;b&gt; <b>\u200b</b> 1"
