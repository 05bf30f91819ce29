"""The database's schema goes forward, once, also when several processes ask for it at the same time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from apex_ml.adapters.postgres import migrations
from apex_ml.adapters.postgres.connection import connect
from apex_ml.errors import ConfigError, TransientError
from apex_ml.pipelines import load_pipeline
from apex_ml.sql.tables import pipeline_ddl
from tests.support.apex_home import Apex
from tests.support.schema import SCHEMA

READABLE = (
    "scored_current",
    "drop_summary",
    "class_mix_daily",
    "confidence_daily",
    "model_history",
    "lineage",
    "shadow_comparison",
    "outcome_coverage",
)


@pytest.fixture
def apex(databases: Any, home: Any) -> Apex:
    """A home whose database holds nothing of Apex."""
    return Apex(home(**databases.empty()))


@pytest.fixture(scope="module")
def reader(lasting_databases: Any) -> Iterator[Any]:
    with closing(psycopg2.connect(lasting_databases.migrated()["reader_database_url"])) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            yield cursor


def applied(apex: Apex) -> list[tuple[Any, ...]]:
    return apex.sql("SELECT number, name, applied_at FROM orders.migrations ORDER BY number")


def test_migrations_run_once(apex: Apex) -> None:
    migrations.migrate(apex.settings, load_pipeline(apex.settings))
    first = applied(apex)
    assert [number for number, _, _ in first] == [number for number, _ in migrations.migration_files()]
    migrations.migrate(apex.settings, load_pipeline(apex.settings))
    assert applied(apex) == first


def test_migration_numbers_are_consecutive() -> None:
    numbers = [number for number, _ in migrations.migration_files()]
    assert numbers == list(range(1, len(numbers) + 1))


def test_two_concurrent_migrations_apply_each_file_once(apex: Apex) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: migrations.migrate(apex.settings, load_pipeline(apex.settings)), range(4)))
    assert len(applied(apex)) == len(migrations.migration_files())


def write(folder: Path, **texts: str) -> list[tuple[int, Path]]:
    for name, text in texts.items():
        (folder / f"{name.lstrip('m')}.sql").write_text(text)
    return migrations.migration_files(folder)


def bring(apex: Apex, files: list[tuple[int, Path]], generated: list[str] | None = None) -> None:
    with connect(apex.settings, SCHEMA) as connection:
        migrations.apply(connection, SCHEMA, files, generated or [])


def test_only_missing_migrations_are_applied(apex: Apex, tmp_path: Path) -> None:
    bring(apex, write(tmp_path, m0001_a="CREATE TABLE apex.a (n int)"))
    bring(apex, write(tmp_path, m0002_b="INSERT INTO apex.a VALUES (2)", m0010_c="INSERT INTO apex.a VALUES (10)"))
    bring(apex, migrations.migration_files(tmp_path))
    assert apex.sql("SELECT n FROM orders.a ORDER BY n") == [(2,), (10,)]


def test_an_applied_file_that_was_changed_is_refused(apex: Apex, tmp_path: Path) -> None:
    bring(apex, write(tmp_path, m0001_a="CREATE TABLE apex.a (n int)"))
    with pytest.raises(ConfigError, match=r"0001_a\.sql: changed after it was applied; restore it"):
        bring(apex, write(tmp_path, m0001_a="CREATE TABLE apex.a (n int, m int)"))


def test_a_failed_migration_is_rolled_back(apex: Apex, tmp_path: Path) -> None:
    files = write(tmp_path, m0001_a="CREATE TABLE apex.a (n int)", m0002_b="CREATE TABLE apex.b (n int); SELECT 1/0")
    with pytest.raises(ConfigError, match=r"0002_b\.sql fails: division by zero; nothing of it was applied"):
        bring(apex, files)
    assert [number for number, _, _ in applied(apex)] == [1]
    assert apex.sql("SELECT to_regclass('orders.a') IS NOT NULL, to_regclass('orders.b') IS NULL") == [(True, True)]
    bring(apex, write(tmp_path, m0002_b="CREATE TABLE apex.b (n int)"))
    assert len(applied(apex)) == 2


@contextmanager
def idle_reader(apex: Apex) -> Iterator[int]:
    """An analyst who began a transaction, read a view and went for lunch; yields the process id of the session."""
    url = apex.settings.reader_database_url
    with closing(psycopg2.connect(url, application_name="notebook")) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM orders.lineage")
        yield connection.info.backend_pid
        connection.rollback()


def changed_views(apex: Apex) -> list[str]:
    statements = pipeline_ddl(load_pipeline(apex.settings).contract, SCHEMA)
    return [*statements, "COMMENT ON VIEW orders.lineage IS 'another'"]


def test_a_start_without_migrations_takes_no_lock(apex: Apex) -> None:
    migrations.migrate(apex.settings, load_pipeline(apex.settings))
    before = apex.sql(
        "SELECT oid, xmin::text, relname FROM pg_class WHERE relnamespace = 'orders'::regnamespace ORDER BY 1"
    )
    with idle_reader(apex):
        began = time.monotonic()
        migrations.migrate(apex.settings, load_pipeline(apex.settings))
        assert time.monotonic() - began < 3
    after = apex.sql(
        "SELECT oid, xmin::text, relname FROM pg_class WHERE relnamespace = 'orders'::regnamespace ORDER BY 1"
    )
    assert after == before


def test_a_blocked_migration_names_the_blocking_session(apex: Apex, monkeypatch: pytest.MonkeyPatch) -> None:
    migrations.migrate(apex.settings, load_pipeline(apex.settings))
    monkeypatch.setattr(migrations, "LOCK_TIMEOUT", "100ms")
    with idle_reader(apex) as pid:
        with pytest.raises(TransientError) as raised:
            bring(apex, migrations.migration_files(), changed_views(apex))
        for part in (
            f"session {pid} of apex_reader",
            "(notebook)",
            "idle in transaction",
            "in a transaction since",
            "holds",
            "lineage",
            "SELECT count(*) FROM orders.lineage",
            "pg_terminate_backend",
        ):
            assert part in str(raised.value), raised.value
        # the waiting session does not block readers
        assert apex.sql("SELECT count(*) FROM orders.lineage") == [(0,)]
    bring(apex, migrations.migration_files(), changed_views(apex))
    assert apex.sql("SELECT obj_description('orders.lineage'::regclass)") == [("another",)]


def test_a_dropped_view_is_created_again(apex: Apex) -> None:
    migrations.migrate(apex.settings, load_pipeline(apex.settings))
    apex.sql("DROP VIEW orders.class_mix_daily")
    migrations.migrate(apex.settings, load_pipeline(apex.settings))
    assert apex.sql("SELECT * FROM orders.class_mix_daily") == []


@pytest.mark.parametrize("view", READABLE)
def test_the_reader_reads_the_views(reader: Any, view: str) -> None:
    reader.execute(f"SELECT * FROM orders.{view}")
    assert reader.fetchall() == []


WRITES = [
    "INSERT INTO orders.drops (sha256, name, bytes, state) VALUES (repeat('a', 64), 'a', 1, 'done')",
    "UPDATE orders.promotions SET state = 'done'",
    "DELETE FROM orders.scored",
    "TRUNCATE orders.outcomes",
    "CREATE TABLE orders.mine (n int)",
    "DROP VIEW orders.lineage",
    "CREATE OR REPLACE VIEW orders.lineage AS SELECT 1",
    "UPDATE orders.model_history SET who = 'me'",
    "SELECT setval('orders.scoring_runs_run_id_seq', 1)",
]


@pytest.mark.parametrize("statement", WRITES)
@pytest.mark.parametrize("read_only", ["on", "off"])
def test_the_reader_writes_nothing(reader: Any, read_only: str, statement: str) -> None:
    reader.execute(f"SET default_transaction_read_only = {read_only}")
    with pytest.raises((psycopg2.errors.InsufficientPrivilege, psycopg2.errors.ReadOnlySqlTransaction)):
        reader.execute(statement)


@pytest.mark.parametrize("table", ["drops", "scored", "promotions", "quarantined_rows", "migrations"])
def test_the_reader_does_not_read_the_tables_behind_the_views(reader: Any, table: str) -> None:
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        reader.execute(f"SELECT * FROM orders.{table}")
