"""The overview of all pipelines: one row each, faults of one that do not touch the others, and who sees which."""

from __future__ import annotations

import ast
import re
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from html import unescape
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from airflow.api_fastapi.auth.managers.models.resource_details import DagDetails
from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from airflow.api_fastapi.core_api.security import get_user
from fastapi.testclient import TestClient

from apex_airflow.pages.web import create_app
from apex_ml.adapters.postgres.overview import read_states, read_totals
from apex_ml.contract.model import Contract
from apex_ml.settings import CODE_ROOT, Settings
from tests.support.many_pipelines import create_tables, write
from tests.support.page_rows import fill
from tests.support.pipeline_files import write_pipelines
from tests.support.throwaway_home import free_ports

NAMES = ("orders", "returns", "fraud")
MODEL = "digital_orders_xgboost"
Open = Callable[..., TestClient]
PAGES = CODE_ROOT / "plugins" / "apex_airflow" / "pages"


class TeamAuthManager(SimpleAuthManager):
    """Lets a user read the DAGs that are named in the user's teams, as an auth manager with rights by DAG does."""

    def is_authorized_dag(self, *, details: DagDetails | None = None, user: Any, **request: Any) -> bool:
        by_role = super().is_authorized_dag(details=None, user=user, **request)
        return by_role and (not user.teams or (details is not None and details.id in user.teams))


@pytest.fixture
def visit(monkeypatch: pytest.MonkeyPatch) -> Open:
    """Make a client of the pages for an admin, or for one who may read the DAGs of some pipelines alone."""
    for place in ("airflow.api_fastapi.core_api.security", "apex_airflow.pages.web"):
        monkeypatch.setattr(f"{place}.get_auth_manager", TeamAuthManager)

    def make(settings: Settings, *pipelines: str) -> TestClient:
        dags = [f"{name}_{kind}" for name in pipelines for kind in ("score", "rollback")]
        user = SimpleAuthManagerUser(username="ann", role="ADMIN", teams=dags or None)

        async def known(*_: object) -> SimpleAuthManagerUser:
            return user

        app = create_app(settings)
        app.dependency_overrides[get_user] = lambda: user
        monkeypatch.setattr("apex_airflow.pages.web.get_user", known)
        return TestClient(app, follow_redirects=False)

    return make


@pytest.fixture(scope="module")
def three(lasting_databases: Any, contract: Contract, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A platform of three pipelines: one with open alerts, one that is well, one that is new. It is only looked at."""
    home = tmp_path_factory.mktemp("home")
    write_pipelines(home / "pipelines", NAMES)
    settings = Settings.load(home=home, pipelines=home / "pipelines", **lasting_databases.migrated())
    create_tables(settings, contract, NAMES[1:])
    for name in NAMES[:2]:
        fill(settings, contract.classes, schema=name)
    write(settings, "UPDATE returns.alerts SET resolved_at = now()")
    write(settings, "UPDATE returns.model_quality SET worse = false, sustained = false")
    yield settings


@pytest.fixture
def pair(databases: Any, contract: Contract, tmp_path: Path) -> Settings:
    """A platform of two pipelines without rows, which a test changes."""
    write_pipelines(tmp_path / "pipelines", NAMES[:2])
    settings = Settings.load(home=tmp_path / "home", pipelines=tmp_path / "pipelines", **databases.migrated())
    create_tables(settings, contract, NAMES[1:2])
    return settings


def rows(text: str) -> dict[str, str]:
    """The rows of the overview as plain text, in order, by the name of the pipeline."""
    cells = re.findall(r'<tr class="\w+">(.*?)</tr>', text, re.DOTALL)
    plain = [" ".join(unescape(re.sub(r"<title>.*?</title>|<[^>]+>", " ", cell)).split()) for cell in cells]
    return {row.split()[0]: row for row in plain}


def test_each_pipeline_is_a_row_and_what_needs_attention_is_first(three: Settings, visit: Open) -> None:
    answer = visit(three).get("/")
    assert answer.status_code == 200
    shown = rows(answer.text)
    assert list(shown) == ["orders", "returns", "fraud"]
    assert "1 of 3 needs attention." in answer.text
    for expected in ("needs attention 2 open alerts: drift, quality", "version 3 for 9 days", " 0 2"):
        assert expected in shown["orders"], expected
    for expected in ("returns retrain score monitor rollback ok", "version 3 for 9 days", " 0 0"):
        assert expected in shown["returns"], expected
    assert re.search(r"\.parquet \d{3} orders, \d{4}-\d\d-\d\d \d\d:\d\d", shown["orders"])
    assert "not in use yet there is no champion yet none none yet 0 orders 0 0 not known yet" in shown["fraud"]
    assert answer.text.count('href="returns"') == 1 and 'href="../dags/returns_score"' in answer.text


def test_the_chart_of_quality_can_be_read_without_seeing_it(three: Settings, visit: Open) -> None:
    labels = re.findall(r'<svg class="sparkline"[^>]*aria-label="([^"]*)"', visit(three).get("/").text)
    worse, well = labels
    assert re.fullmatch(
        r"Log loss by week, higher is better: 0\.893 in the week of \d{4}-\d\d-\d\d, class prior 1\.370;"
        r" 2 of 12 weeks worse than expected",
        worse,
    )
    assert well.endswith("class prior 1.370; no week was worse")


def test_rows_scored_are_those_of_seven_days(three: Settings) -> None:
    state = read_states(three, {"orders": MODEL}).values["orders"]
    (row,) = read(
        three,
        "SELECT sum(rows_scored) FROM orders.scoring_runs JOIN orders.drops USING (drop_id)"
        " WHERE received_at >= now() - interval '7 days'",
    )
    assert state.rows_scored == row[0] > 0


def test_the_champion_is_that_of_the_current_model(three: Settings) -> None:
    assert read_states(three, {"orders": MODEL}).values["orders"].version == 3
    other = read_states(three, {"orders": "another"}).values["orders"]
    assert (other.version, other.since, other.weeks) == (None, None, ()) and other.drop
    assert read_totals(three, {"orders": "another"}).values["orders"].version is None


def test_each_pipeline_has_its_page(three: Settings, visit: Open) -> None:
    client = visit(three)
    for name, expected in (
        ("orders", "PSI 0.41"),
        ("returns", "Nothing needs attention"),
        ("fraud", "no champion yet"),
    ):
        answer = client.get(f"/{name}")
        assert answer.status_code == 200 and f"<h1>{name}</h1>" in answer.text and expected in answer.text
    form = client.get("/returns").text
    assert 'data-dag="returns_rollback" data-runs="../api/v2/dags/returns_rollback/dagRuns"' in form
    assert "orders_rollback" not in form


@pytest.mark.parametrize("name", ["nothing", "Orders", "orders.yaml", "<script>", "%00", "a%2Fb"])
def test_an_unknown_name_lists_the_pipelines(three: Settings, visit: Open, name: str) -> None:
    answer = visit(three).get(f"/{name}")
    assert answer.status_code == 404
    if name != "a%2Fb":
        assert [f'<a href="{other}">{other}</a>' in answer.text for other in NAMES] == [True] * 3
    assert "<script>" not in answer.text


def test_the_rows_have_the_noun_of_their_pipeline(pair: Settings, visit: Open, contract: Contract) -> None:
    path = pair.pipelines / "returns" / "pipeline.yaml"
    fill(pair, contract.classes, runs=20, schema="returns")
    texts = {}
    for noun in ("rows: orders\n", "rows: Aufträge\n", ""):
        path.write_text(path.read_text().replace("rows: orders\n", noun).replace("rows: Aufträge\n", noun))
        client = visit(pair)
        texts[noun] = rows(client.get("/").text)["returns"] + client.get("/returns").text
    for noun, word in (("rows: orders\n", "orders"), ("rows: Aufträge\n", "Aufträge"), ("", "rows")):
        assert re.search(rf"\d {word} \d+ \d+", texts[noun]) and f"<dt>{word} scored</dt>" in texts[noun], word


WORDS_OF_ONE_TABLE = re.compile(r"\b(orders?|clients?|channels?)\b", re.IGNORECASE)


def texts_of(path: Path) -> list[str]:
    """The texts of a file that users can see: of Python its strings that are no docstrings."""
    if path.suffix != ".py":
        return [path.read_text(encoding="utf-8")]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documents = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    strings = [n for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    return [str(n.value) for n in strings if id(n) not in documents]


@pytest.mark.parametrize("path", sorted(p for p in PAGES.rglob("*.*") if p.suffix in (".py", ".j2", ".js")), ids=str)
def test_the_pages_have_no_word_of_one_table(path: Path) -> None:
    matches = [match[0] for text in texts_of(path) for match in WORDS_OF_ONE_TABLE.finditer(text)]
    assert matches == []


def test_a_single_pipeline_is_opened_at_once(three: Settings, visit: Open) -> None:
    client = visit(three, "returns")
    assert client.get("/").headers["location"] == "returns"
    assert client.get("/?drift=raw").headers["location"] == "returns?drift=raw"
    assert list(rows(client.get("/?all=true").text)) == ["returns"]


def test_a_user_sees_only_pipelines_whose_scoring_dag_the_user_may_read(three: Settings, visit: Open) -> None:
    client = visit(three, "returns", "fraud")
    overview = client.get("/").text
    assert list(rows(overview)) == ["returns", "fraud"] and "orders_rollback" not in overview
    hidden, missing = client.get("/orders"), client.get("/nothing")
    assert hidden.status_code == missing.status_code == 404
    assert hidden.text.replace("orders", "nothing") == missing.text  # nobody learns that it exists
    metrics = client.get("/metrics").text
    assert 'pipeline="returns"' in metrics and 'pipeline="fraud"' in metrics and 'pipeline="orders"' not in metrics


def test_a_user_without_any_pipeline_gets_the_reason(three: Settings, visit: Open) -> None:
    client = visit(three, "none_of_these")
    assert "There is no pipeline that you may see." in client.get("/").text
    assert client.get("/orders").status_code == 404


def test_a_broken_file_is_one_row_and_the_others_work(pair: Settings, visit: Open) -> None:
    path = pair.pipelines / "returns" / "pipeline.yaml"
    path.write_text(path.read_text().replace("trials: 0", "trials: -3"))
    client = visit(pair)
    shown = rows(client.get("/").text)
    assert list(shown) == ["returns", "orders"]
    assert "model.trials" in shown["returns"] and "-3" in shown["returns"] and "not in use yet" in shown["orders"]
    assert client.get("/orders").status_code == 200
    broken = client.get("/returns")
    assert broken.status_code == 503 and "returns cannot be shown" in broken.text and "model.trials" in broken.text
    metrics = client.get("/metrics").text
    assert 'apex_pipeline_readable{pipeline="returns"} 0.0' in metrics
    assert 'apex_pipeline_readable{pipeline="orders"} 1.0' in metrics


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ("DROP SCHEMA returns CASCADE", "it has no tables yet"),
        ("DROP VIEW returns.pipeline_state", "its tables are of another version of Apex"),
        ("REVOKE USAGE ON SCHEMA returns FROM apex_reader", "its tables are of another version of Apex"),
        ("ALTER VIEW returns.pipeline_state RENAME COLUMN quality TO x", 'its tables cannot be read: column "quality"'),
    ],
)
def test_tables_that_cannot_be_read_are_one_row_and_the_others_work(
    pair: Settings, visit: Open, change: str, fault: str
) -> None:
    write(pair, change)
    client = visit(pair)
    shown = rows(client.get("/").text)
    assert fault in shown["returns"] and "not in use yet" in shown["orders"]
    assert 'apex_pipeline_readable{pipeline="orders"} 1.0' in client.get("/metrics").text


def test_tables_that_a_migration_holds_are_one_row_and_the_others_work(pair: Settings, visit: Open) -> None:
    with closing(psycopg2.connect(pair.writer_url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("LOCK TABLE returns.promotions IN ACCESS EXCLUSIVE MODE")
        shown = rows(visit(pair).get("/").text)
    assert "its tables cannot be read: canceling statement due to lock timeout" in shown["returns"]
    assert "not in use yet" in shown["orders"]
    assert "not in use yet" in rows(visit(pair).get("/").text)["returns"]


def test_a_pipeline_without_its_folder_is_shown_as_removed(pair: Settings, visit: Open) -> None:
    (pair.pipelines / "returns" / "pipeline.yaml").unlink()
    client = visit(pair)
    assert "returns removed its folder is gone; its tables are still in Postgres" in rows(
        client.get("/?all=true").text
    ).get("returns", "")
    assert 'href="returns"' not in client.get("/?all=true").text and client.get("/returns").status_code == 404
    assert "returns" not in visit(pair, "orders").get("/?all=true").text


def test_a_failed_drop_and_waiting_drops_need_attention(pair: Settings, visit: Open) -> None:
    write(
        pair,
        "INSERT INTO returns.drops (sha256, name, bytes, state, reason)"
        " VALUES (repeat('a', 64), '<b>.parquet', 1, 'failed', 'unreadable')",
    )
    inbox = pair.home / "data" / "returns" / "drops" / "inbox"
    inbox.mkdir(parents=True)
    (inbox / "a.parquet").write_text("x")
    answer = visit(pair).get("/")
    shown = rows(answer.text)
    assert "needs attention the last drop failed no champion: 1 drop waits for one" in shown["returns"]
    assert "<b>.parquet" in shown["returns"] and "<b>.parquet" not in answer.text


def test_without_postgres_the_overview_says_so(tmp_path: Path, visit: Open) -> None:
    (port,) = free_ports(1)
    write_pipelines(tmp_path / "pipelines", NAMES[:2])
    url = f"postgresql://apex_reader:secret@127.0.0.1:{port}/apex"
    settings = Settings.load(home=tmp_path, pipelines=tmp_path / "pipelines", reader_database_url=url)
    answer = visit(settings).get("/")
    assert answer.status_code == 503 and "make up" in answer.text and "secret" not in answer.text


def test_the_overview_of_twenty_pipelines_is_quick(
    databases: Any, contract: Contract, tmp_path: Path, visit: Open
) -> None:
    names = ["orders", *(f"pipeline_{number}" for number in range(19))]
    write_pipelines(tmp_path / "pipelines", names)
    settings = Settings.load(home=tmp_path, pipelines=tmp_path / "pipelines", **databases.migrated())
    create_tables(settings, contract, names[1:])
    for name in names[:3]:
        fill(settings, contract.classes, runs=2000, schema=name)
    client = visit(settings)
    assert len(rows(client.get("/").text)) == 20
    # the promise is 0.3 s with 50, which the benchmark measures; others may be at work beside this test
    took: list[float] = []
    while min(took, default=1.0) >= 0.5 and len(took) < 20:
        began = time.perf_counter()
        assert client.get("/").status_code == 200
        took.append(time.perf_counter() - began)
    assert min(took) < 0.5, took


def read(settings: Settings, query: str) -> list[Any]:
    with closing(psycopg2.connect(settings.writer_url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(query)
        return cursor.fetchall()
