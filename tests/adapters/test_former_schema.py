"""A database of the first edition: its tables move into the schema of their pipeline, and no row is copied."""

from __future__ import annotations

import hashlib
from contextlib import closing
from typing import Any

import psycopg2
import pytest

from apex_ml.adapters.postgres import former_schema
from apex_ml.adapters.postgres.connection import connect, transaction
from apex_ml.adapters.postgres.drops import PostgresDrops
from apex_ml.adapters.postgres.migrations import migrate_all, migrate_schema, migration_files
from apex_ml.adapters.postgres.partitions import take_run_id
from apex_ml.errors import ConfigError, TransientError
from apex_ml.pipelines import load_pipeline
from apex_ml.settings import Settings
from tests.support.apex_home import Apex
from tests.support.former_database import SHA, make_former_tables

RELATIONS = "('drops', 'migrations')"
# the first edition has no table contracts
TABLES = """
SELECT c.oid::bigint, c.relfilenode::bigint, c.oid::regclass::text FROM pg_class AS c
JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE n.nspname = %s AND c.relkind = 'r' AND c.relname <> 'contracts'
ORDER BY 1
"""
INDEXES = """
SELECT c.oid::bigint, c.relfilenode::bigint FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relkind = 'i' AND c.relname <> 'contracts_pkey'
ORDER BY 1
"""


@pytest.fixture
def former(databases: Any, home: Any) -> Settings:
    settings: Settings = home(**databases.empty())
    make_former_tables(settings)
    return settings


def upgrade(settings: Settings) -> None:
    migrate_all(settings, [load_pipeline(settings)], "orders")


NEW_COLUMNS = {"model_versions": 1, "scoring_runs": 1, "quarantined_rows": 2}


def content(settings: Settings, tables: list[str], row: str = "t::text") -> dict[str, tuple[int, str]]:
    """Number and checksum of the rows of tables or views. The text of a row does not name its columns."""
    query = f"SELECT count(*), coalesce(md5(string_agg({row}, ',' ORDER BY t::text)), '') FROM {{}} AS t"
    return {table: Apex(settings).sql(query.format(table))[0] for table in tables}


NEW = {"drop_objects", "object_listings", "table_positions"}
"""Tables of later migrations."""


def views_of(settings: Settings, schema: str) -> list[str]:
    rows = Apex(settings).sql("SELECT viewname::text FROM pg_views WHERE schemaname = %s ORDER BY 1", (schema,))
    return [name for (name,) in rows]


def columns_of(settings: Settings, schema: str) -> list[tuple[Any, ...]]:
    return Apex(settings).sql(
        "SELECT table_name::text, column_name::text, data_type::text FROM information_schema.columns"
        " WHERE table_schema = %s AND table_name::text = ANY(%s) ORDER BY table_name, ordinal_position",
        (schema, views_of(settings, schema)),
    )


def read_as_reader(settings: Settings, relation: str) -> int:
    with closing(psycopg2.connect(settings.reader_url)) as connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT count(*) FROM {relation}")
        return int(cursor.fetchone()[0])  # type: ignore[index]


def test_rows_and_files_stay_and_old_names_read_them(former: Settings) -> None:
    apex = Apex(former)
    tables = {oid: (file, name) for oid, file, name in apex.sql(TABLES, ("apex",))}
    rows = content(former, [name for _, name in tables.values()])
    assert all(number for number, _ in rows.values()), rows
    indexes = apex.sql(INDEXES, ("apex",))
    views = views_of(former, "apex")
    read, columns = content(former, [f"apex.{view}" for view in views]), columns_of(former, "apex")
    assert len(views) > 15 and all(number for number, _ in read.values()), read

    upgrade(former)

    after = {oid: (file, name) for oid, file, name in apex.sql(TABLES, ("orders",))}
    assert {name for oid, (_, name) in after.items() if oid not in tables} == NEW
    assert {oid: file for oid, (file, _) in tables.items()} == {oid: after[oid][0] for oid in tables}
    assert set(indexes) <= set(apex.sql(INDEXES, ("orders",)))
    changed = {"apex.migrations", "apex.generated"}
    now = content(former, [name for _, name in after.values()])
    for table, columns_added in NEW_COLUMNS.items():  # the last ones, which are null in the rows of before
        now |= content(former, [table], f"left(t::text, -{1 + columns_added}) || ')'")
    for oid, (_, name) in tables.items():
        if name not in changed:
            assert now[after[oid][1]] == rows[name], name
    assert content(former, [f"apex.{view}" for view in views]) == read
    assert [column for column in columns_of(former, "apex") if column[0] in views] == columns
    for view in views:
        assert read_as_reader(former, f"apex.{view}") == read[f"apex.{view}"][0]
        ((comment,),) = apex.sql("SELECT obj_description(%s::regclass)", (f"apex.{view}",))
        present = comment.removeprefix("Old name of ").removesuffix(", kept for one version.")
        assert content(former, [present])[present][0] == read[f"apex.{view}"][0]
        assert read_as_reader(former, present) == read[f"apex.{view}"][0]
    assert (
        apex.sql(
            "SELECT FROM pg_class WHERE relnamespace = 'apex'::regnamespace AND relkind = 'r'"
            " AND relname IN ('drops', 'migrations', 'scoring_runs')"
        )
        == []
    )


def test_what_is_moved_works_as_what_is_new(former: Settings) -> None:
    upgrade(former)
    with transaction(former, "orders") as session:
        drops = PostgresDrops(session)
        assert drops.claim(SHA, "again", 1, 40) is None  # it is scored already
        assert drops.claim("f" * 64, "new", 1, 1) not in (None, 1, 2, 3)
        assert session.fetch("SELECT received_at = now() FROM drops WHERE name = 'new'") == [(True,)]
    with connect(former, "orders") as connection:
        assert take_run_id(connection, 1) == 1002  # after the run that has its own partition
    names = Apex(former).sql(
        "SELECT relnamespace::regnamespace::text FROM pg_class WHERE relkind = 'r' AND relispartition"
    )
    assert names == [("orders",)] * 3


def test_a_second_upgrade_changes_nothing(former: Settings) -> None:
    upgrade(former)
    query = (
        "SELECT oid::bigint, xmin::text, relname FROM pg_class WHERE relnamespace = ANY"
        " (ARRAY['apex', 'orders']::regnamespace[]) ORDER BY 1"
    )
    before = Apex(former).sql(query)
    upgrade(former)
    assert Apex(former).sql(query) == before
    files = [(n, hashlib.sha256(p.read_bytes()).hexdigest()) for n, p in migration_files()]
    assert Apex(former).sql("SELECT number, sha256 FROM orders.migrations ORDER BY 1") == files


def test_a_second_pipeline_gets_its_own_tables(former: Settings) -> None:
    upgrade(former)
    migrate_schema(former, load_pipeline(former).contract, "visits")
    assert Apex(former).sql("SELECT count(*) FROM visits.drops") == [(0,)]
    assert Apex(former).sql("SELECT count(*) FROM orders.drops") == [(3,)]


def schemas(settings: Settings) -> list[str]:
    rows = Apex(settings).sql(f"SELECT schemaname::text FROM pg_tables WHERE tablename IN {RELATIONS} ORDER BY 1")
    return [name for (name,) in rows]


@pytest.mark.parametrize("point", ["former_schema_moved", "former_schema_committed"])
def test_a_killed_upgrade_leaves_all_or_nothing_and_the_next_one_ends_it(former: Settings, point: str) -> None:
    apex = Apex(former)
    before = content(former, ["apex.drops", "apex.scored_orders"])
    killed = apex.call("container", "prepare", APEX_FAULT=point)
    assert killed.code < 0
    if point == "former_schema_moved":
        assert schemas(former) == ["apex", "apex"]
        assert content(former, ["apex.drops", "apex.scored_orders"]) == before
    assert apex.call("container", "prepare").code == 0
    assert schemas(former) == ["flights", "flights", "orders", "orders"]
    assert content(former, ["orders.drops"])["orders.drops"] == before["apex.drops"]


def test_the_upgrade_waits_for_a_step_that_writes(former: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(former_schema, "LOCK_TIMEOUT", "100ms")
    with closing(psycopg2.connect(former.writer_url, application_name="old step")) as step, step.cursor() as cursor:
        cursor.execute("INSERT INTO apex.outcomes VALUES (1, 30, 'DIGITAL', 'raw')")
        with pytest.raises(TransientError, match=r"cannot be moved into the schema orders.*\n.*old step"):
            upgrade(former)
        assert schemas(former) == ["apex", "apex"]
        step.commit()
        upgrade(former)
        # its next transaction finds no table: it fails, and the step is tried again by the new version
        with pytest.raises(psycopg2.errors.UndefinedTable):
            cursor.execute("INSERT INTO apex.outcomes VALUES (1, 31, 'DIGITAL', 'raw')")
    assert Apex(former).sql("SELECT count(*) FROM orders.outcomes WHERE row_nr >= 30") == [(1,)]


def test_an_unclear_owner_is_an_error_and_a_schema_that_exists_stays(former: Settings) -> None:
    with pytest.raises(ConfigError, match="APEX_PIPELINE=NAME"):
        migrate_all(former, [load_pipeline(former)], None)
    migrate_schema(former, load_pipeline(former).contract, "orders")
    upgrade(former)
    assert Apex(former).sql("SELECT count(*) FROM orders.drops") == [(0,)]
    assert Apex(former).sql("SELECT count(*) FROM apex.drops") == [(3,)]
