"""Who may read what: every view and every table of a platform of two pipelines, by each role that reads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg2
import pytest

from apex_ml.adapters.postgres.migrations import migrate_all
from apex_ml.adapters.postgres.platform_schema import known_pipelines
from apex_ml.errors import ConfigError
from apex_ml.pipelines import load_all_pipelines
from apex_ml.platform.embedded.postgres.databases import ensure_databases
from apex_ml.platform.pipeline_readers import reader_password, reader_url
from apex_ml.platform.pipeline_tables import migrate_pipelines
from apex_ml.settings import CODE_ROOT, Settings
from tests.support.apex_home import Apex
from tests.support.former_database import make_former_tables
from tests.support.pipeline_files import text_named
from tests.support.throwaway_home import Database, running_postgres

ORDERS = (CODE_ROOT / "pipelines" / "orders" / "pipeline.yaml").read_text(encoding="utf-8")
RELATIONS = """
SELECT n.nspname::text, c.relname::text, c.relkind IN ('v', 'm') FROM pg_class AS c
JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname IN ('apex', 'orders', 'visits') AND c.relkind IN ('r', 'p', 'v', 'm', 'f') ORDER BY 1, 2
"""
ROLES = {"apex_reader": ("apex", "orders", "visits"), "orders_reader": ("orders",), "visits_reader": ("visits",)}
"""The schemas whose views each role reads."""


def add_pipeline(settings: Settings, name: str) -> None:
    folder = settings.pipelines / name
    folder.mkdir(parents=True)
    (folder / "pipeline.yaml").write_text(text_named(name))


@pytest.fixture(scope="module")
def platform() -> Iterator[Settings]:
    """A platform that was upgraded from the first edition, and got a second pipeline."""
    with running_postgres("readers") as database:
        yield _upgraded(database)


def _upgraded(database: Database) -> Settings:
    settings = database.settings.model_copy(update={"pipelines": database.settings.home / "pipelines"})
    add_pipeline(settings, "orders")
    make_former_tables(settings)
    ensure_databases(settings, database.server)
    migrate_pipelines(settings, print)
    add_pipeline(settings, "visits")
    ensure_databases(settings, database.server)
    migrate_pipelines(settings, print)
    return settings


def connected(settings: Settings, role: str) -> Any:
    url = settings.reader_url if role == "apex_reader" else reader_url(settings, role.removesuffix("_reader"))
    return closing(psycopg2.connect(url))


@pytest.mark.parametrize("role", ROLES)
def test_a_reader_reads_the_views_of_its_schemas_and_nothing_else(platform: Settings, role: str) -> None:
    relations = Apex(platform).sql(RELATIONS)
    views = {(schema, name) for schema, name, is_view in relations if is_view}
    assert {schema for schema, _ in views} == {"apex", "orders", "visits"} and len(views) < len(relations)
    readable = {(schema, name) for schema, name in views if schema in ROLES[role]}
    with connected(platform, role) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        for schema, name, _ in relations:
            if (schema, name) in readable:
                cursor.execute(f'SELECT * FROM "{schema}"."{name}"')
            else:
                with pytest.raises(psycopg2.errors.InsufficientPrivilege):
                    cursor.execute(f'SELECT * FROM "{schema}"."{name}"')


@pytest.mark.parametrize("role", ROLES)
def test_a_reader_writes_and_creates_nothing_and_has_limits(platform: Settings, role: str) -> None:
    with connected(platform, role) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute("SHOW default_transaction_read_only")
        assert cursor.fetchall() == [("on",)]
        cursor.execute("SHOW idle_in_transaction_session_timeout")
        assert cursor.fetchall() == [(f"{platform.pg_reader_idle_minutes}min",)]
        cursor.execute("SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user")
        assert cursor.fetchall() == [(platform.pg_reader_connections,)]
        cursor.execute("SET default_transaction_read_only = off")
        for schema in ("apex", "orders", "visits", "public"):
            with pytest.raises(psycopg2.errors.InsufficientPrivilege):
                cursor.execute(f"CREATE TABLE {schema}.mine (n int)")
        for statement in ("DELETE FROM orders.drops", "SELECT visits.take_run_id(false)"):
            with pytest.raises(psycopg2.errors.InsufficientPrivilege):
                cursor.execute(statement)


def test_a_team_finds_its_views_without_a_prefix(platform: Settings) -> None:
    with connected(platform, "visits_reader") as connection, connection.cursor() as cursor:
        cursor.execute("SELECT current_schema()::text, count(*) FROM scored_current")
        assert cursor.fetchall() == [("visits", 0)]
    with connected(platform, "orders_reader") as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM scored_current")
        assert cursor.fetchall() == [(80,)]


def test_a_password_opens_one_role_alone(platform: Settings) -> None:
    assert reader_password(platform, "orders") != reader_password(platform, "visits")
    stolen = reader_url(platform, "orders").replace("orders_reader", "visits_reader")
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        psycopg2.connect(stolen)
    elsewhere = platform.model_copy(update={"reader_database_url": "postgresql://a:secret@db.example.org/apex"})
    with pytest.raises(ConfigError, match="orders_reader") as raised:
        reader_url(elsewhere, "orders")
    assert "secret" not in str(raised.value)


def test_the_views_of_the_platform_speak_of_every_pipeline(platform: Settings) -> None:
    apex = Apex(platform)
    assert apex.sql("SELECT pipeline, count(*) FROM apex.all_drops GROUP BY 1") == [("orders", 3)]
    assert apex.sql("SELECT pipeline, kind FROM apex.all_open_alerts") == [("orders", "drift")]
    assert apex.sql("SELECT pipeline, version FROM apex.all_champions") == [("orders", 1)]
    apex.sql("INSERT INTO visits.alerts (kind, subject, message) VALUES ('drift', 'x', 'y')")
    assert apex.sql("SELECT pipeline FROM apex.all_open_alerts ORDER BY 1") == [("orders",), ("visits",)]
    apex.sql("DELETE FROM visits.alerts")
    assert apex.sql("SELECT name, schema_name, removed_at FROM apex.pipelines ORDER BY 1") == [
        ("orders", "orders", None),
        ("visits", "visits", None),
    ]


def test_starting_again_changes_nothing(platform: Settings) -> None:
    query = (
        "SELECT oid::bigint, xmin::text FROM pg_class WHERE relnamespace = ANY"
        " (ARRAY['apex', 'orders', 'visits']::regnamespace[]) UNION ALL"
        " SELECT 0, xmin::text FROM apex.known_pipelines ORDER BY 1, 2"
    )
    before = Apex(platform).sql(query)
    migrate_pipelines(platform, print)
    assert Apex(platform).sql(query) == before


def test_a_removed_pipeline_keeps_its_tables_and_one_that_cannot_be_read_is_not_removed(
    platform: Settings,
) -> None:
    pipelines, _ = load_all_pipelines(platform)
    orders = [pipeline for pipeline in pipelines if pipeline.name == "orders"]
    migrate_all(platform, orders, "orders", ["visits"])
    assert [known.name for known in known_pipelines(platform) if known.removed_at] == []
    migrate_all(platform, orders, "orders")
    (removed,) = [known for known in known_pipelines(platform) if known.removed_at]
    assert (removed.name, removed.schema) == ("visits", "visits")
    assert Apex(platform).sql("SELECT count(*) FROM visits.drops") == [(0,)]
    migrate_all(platform, pipelines, "orders")
    assert [known.name for known in known_pipelines(platform) if known.removed_at] == []
