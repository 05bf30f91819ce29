"""Pipelines with a schema each on one database: the same tables and views, and none of each other's rows."""

from __future__ import annotations

import hashlib
import re
from contextlib import ExitStack, closing
from typing import Any

import psycopg2
import pyarrow as pa
import pytest

from apex_ml.adapters.postgres.alerts import PostgresAlerts, only_sender
from apex_ml.adapters.postgres.bulk import bulk_transaction
from apex_ml.adapters.postgres.champions import NewDecision, champions
from apex_ml.adapters.postgres.connection import connect, connect_reader, search_path, transaction
from apex_ml.adapters.postgres.drift import PostgresDrift
from apex_ml.adapters.postgres.drops import PostgresDrops
from apex_ml.adapters.postgres.migrations import migrate_schema, migration_files
from apex_ml.adapters.postgres.outbox import open_outbox
from apex_ml.adapters.postgres.outcomes import SCHEMA as OUTCOME_COLUMNS
from apex_ml.adapters.postgres.outcomes import PostgresOutcomes
from apex_ml.adapters.postgres.partitions import PostgresPartitions, merge_closed, take_run_id
from apex_ml.adapters.postgres.schema_names import WRITTEN_FOR, for_schema
from apex_ml.adapters.postgres.views import PostgresViews, read_snapshot
from apex_ml.contract.model import Contract
from apex_ml.errors import ConfigError
from apex_ml.pipelines import load_pipeline
from apex_ml.settings import Settings
from apex_ml.sql.quote import identifier
from apex_ml.sql.tables import VIEWS
from tests.support.apex_home import Apex
from tests.support.schema import SCHEMA

TWO = ("parcels", "second_table")
HOSTILE = 'My "own" % \\ schema'


@pytest.fixture
def settings(databases: Any, home: Any) -> Settings:
    """A home whose database has the schema of the first pipeline, and one for each of two others."""
    result: Settings = home(**databases.migrated())
    for schema in TWO:
        migrate_schema(result, load_pipeline(result).contract, schema)
    return result


# the rewriter


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SELECT * FROM apex.drops, APEX . alerts", 'SELECT * FROM "x".drops, "x" . alerts'),
        ('SELECT "apex".drops.name FROM "apex".drops', 'SELECT "x".drops.name FROM "x".drops'),
        ("GRANT USAGE ON SCHEMA apex TO apex_reader", 'GRANT USAGE ON SCHEMA "x" TO apex_reader'),
        ("CREATE SCHEMA IF NOT EXISTS apex", 'CREATE SCHEMA IF NOT EXISTS "x"'),
        ("SET search_path = apex, pg_temp", 'SET search_path = "x", pg_temp'),
        ("ALTER FUNCTION apex.f SET search_path TO apex", 'ALTER FUNCTION "x".f SET search_path TO "x"'),
        ("CREATE FUNCTION apex.f() AS $$ SELECT apex.g() $$", 'CREATE FUNCTION "x".f() AS $$ SELECT "x".g() $$'),
        ("DO $b$ BEGIN PERFORM apex.g($1); END $b$", 'DO $b$ BEGIN PERFORM "x".g($1); END $b$'),
        ("EXECUTE format('DROP TABLE apex.%I', n)", "EXECUTE format('DROP TABLE \"x\".%I', n)"),
        ("SELECT to_regclass('apex.a_' || n)", "SELECT to_regclass('\"x\".a_' || n)"),
        ("COMMENT ON TABLE apex.a IS 'It''s of apex.b'", "COMMENT ON TABLE \"x\".a IS 'It''s of \"x\".b'"),
        # these have the name without being the schema
        ("REVOKE ALL ON DATABASE apex FROM apex_writer", "REVOKE ALL ON DATABASE apex FROM apex_writer"),
        ("SELECT current_setting('apex.clock_offset', true)", "SELECT current_setting('apex.clock_offset', true)"),
        ("SELECT set_config('apex.clock_offset', '1', true)", "SELECT set_config('apex.clock_offset', '1', true)"),
        ("SET LOCAL apex.clock_offset = '1s'", "SET LOCAL apex.clock_offset = '1s'"),
        ("SELECT 'ann@apex.invalid', my_apex.a, b.apex.c", "SELECT 'ann@apex.invalid', my_apex.a, b.apex.c"),
        ("-- apex.drops\n/* SCHEMA apex */", "-- apex.drops\n/* SCHEMA apex */"),
        ("SELECT 'apex' AS \"apex.drops\"", "SELECT 'apex' AS \"apex.drops\""),
    ],
)
def test_what_names_the_schema_is_rewritten(text: str, expected: str) -> None:
    assert for_schema(text, "x") == expected
    assert for_schema(text, WRITTEN_FOR) == text


def test_a_name_is_quoted_for_where_it_stands() -> None:
    name = """a"b'c%"""
    assert for_schema("SELECT apex.f()", name) == """SELECT "a""b'c%".f()"""
    assert for_schema("SELECT to_regclass('apex.t')", name) == """SELECT to_regclass('"a""b''c%".t')"""
    assert for_schema("SELECT format('apex.%I', t)", name) == """SELECT format('"a""b''c%%".%I', t)"""


def test_no_migration_names_apex_after_it_is_rewritten() -> None:
    for _, path in migration_files():
        rewritten = for_schema(path.read_text(encoding="utf-8"), "x")
        code = re.sub(r"--[^\n]*", "", rewritten).replace("current_setting('apex.clock_offset'", "")
        assert not re.search(r"\bapex\b", code), path.name


# the catalogue

CATALOGUE = {
    "schema": "SELECT nspowner::regrole::text, nspacl::text FROM pg_namespace WHERE nspname = %(schema)s",
    "relations": "SELECT relname::text, relkind::text, relowner::regrole::text, relispartition, relacl::text,"
    " pg_get_partkeydef(oid), pg_get_expr(relpartbound, oid), obj_description(oid, 'pg_class')"
    " FROM pg_class WHERE relnamespace = to_regnamespace(quote_ident(%(schema)s)) ORDER BY 1",
    "columns": "SELECT c.relname::text, a.attnum::int, a.attname::text, format_type(a.atttypid, a.atttypmod),"
    " a.attnotnull, a.attidentity::text, a.attacl::text, pg_get_expr(d.adbin, d.adrelid),"
    " col_description(c.oid, a.attnum) FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid"
    " LEFT JOIN pg_attrdef AS d ON d.adrelid = c.oid AND d.adnum = a.attnum WHERE a.attnum > 0"
    " AND c.relnamespace = to_regnamespace(quote_ident(%(schema)s)) ORDER BY 1, 2",
    "constraints": "SELECT conrelid::regclass::text, conname::text, pg_get_constraintdef(oid), obj_description(oid)"
    " FROM pg_constraint WHERE connamespace = to_regnamespace(quote_ident(%(schema)s)) ORDER BY 1, 2",
    "indexes": "SELECT indexname::text, indexdef FROM pg_indexes WHERE schemaname = %(schema)s ORDER BY 1",
    "views": "SELECT viewname::text, viewowner::text, definition FROM pg_views WHERE schemaname = %(schema)s"
    " ORDER BY 1",
    "sequences": "SELECT sequencename::text, data_type::text, start_value, increment_by, cycle FROM pg_sequences"
    " WHERE schemaname = %(schema)s ORDER BY 1",
    "functions": "SELECT proname::text, pg_get_function_arguments(oid), pg_get_function_result(oid), prosrc,"
    " provolatile::text, proparallel::text, proconfig::text, proacl::text, obj_description(oid, 'pg_proc')"
    " FROM pg_proc WHERE pronamespace = to_regnamespace(quote_ident(%(schema)s)) ORDER BY 1",
    "triggers": "SELECT tgrelid::regclass::text, tgname::text FROM pg_trigger AS t JOIN pg_class AS c"
    " ON c.oid = t.tgrelid WHERE c.relnamespace = to_regnamespace(quote_ident(%(schema)s)) AND NOT tgisinternal",
}


def catalogue(settings: Settings, schema: str) -> dict[str, list[tuple[Any, ...]]]:
    """What a schema consists of, without its name."""
    quoted = identifier(schema)
    names = "|".join(re.escape(name) for name in {schema, quoted, quoted.replace("%", "%%")})
    prefix = re.compile(rf'(?<!\w)(?:{names})\.(?!clock_offset)(?=[\w%"])')

    own_reader = re.compile(r",orders_reader=\w+/apex_writer")

    def bare(value: Any) -> Any:
        # a schema's own reader has the grants of apex_reader, and only a pipeline with a file has that role
        return own_reader.sub("", prefix.sub("", value)) if isinstance(value, str) else value

    with transaction(settings, schema) as session:
        return {
            kind: [tuple(map(bare, row)) for row in session.fetch(query, {"schema": schema})]
            for kind, query in CATALOGUE.items()
        }


@pytest.mark.parametrize("schema", ["parcels", HOSTILE])
def test_a_new_schema_is_that_of_existing_databases_by_another_name(databases: Any, home: Any, schema: str) -> None:
    settings = home(**databases.migrated())
    migrate_schema(settings, load_pipeline(settings).contract, schema)
    first, new = catalogue(settings, SCHEMA), catalogue(settings, schema)
    for kind, rows in first.items():
        assert new[kind] == rows, kind
    for kind in ("schema", "relations", "columns", "constraints", "indexes", "views", "functions", "sequences"):
        assert first[kind], kind
    assert len(first["views"]) > len(VIEWS)


def test_the_digests_are_those_of_the_files(settings: Settings) -> None:
    files = [(n, p.name, hashlib.sha256(p.read_bytes()).hexdigest()) for n, p in migration_files()]
    for schema in (SCHEMA, *TWO):
        with transaction(settings, schema) as session:
            assert session.fetch("SELECT number, name, sha256 FROM migrations ORDER BY 1") == files


def test_a_name_that_postgres_would_cut_is_refused(home: Any) -> None:
    with pytest.raises(ConfigError, match="at most 63 bytes"):
        migrate_schema(home(), load_pipeline(home()).contract, "é" * 32)


def test_migrating_a_schema_again_changes_nothing(settings: Settings) -> None:
    query = "SELECT oid, xmin::text FROM pg_class WHERE relnamespace = 'parcels'::regnamespace ORDER BY 1"
    before = Apex(settings).sql(query)
    migrate_schema(settings, load_pipeline(settings).contract, "parcels")
    assert Apex(settings).sql(query) == before


# sessions


@pytest.mark.parametrize("schema", ["parcels", "my schema", HOSTILE])
def test_every_kind_of_session_has_the_schema_as_its_path(databases: Any, home: Any, schema: str) -> None:
    settings = home(**databases.migrated())
    name = identifier(schema).replace("%", "%%")
    Apex(settings).sql(f"CREATE SCHEMA {name}; GRANT USAGE ON SCHEMA {name} TO apex_reader")
    current = "SELECT current_schema()::text, array_length(current_schemas(false), 1)::bigint"
    with transaction(settings, schema) as session:
        assert session.fetch(current) == [(schema, 1)]
    with bulk_transaction(settings, schema) as bulk:
        assert bulk.fetch(current) == [(schema, 1)]
    with read_snapshot(settings, schema) as session:
        assert session.fetch(current) == [(schema, 1)]


def test_streamed_rows_go_into_a_schema_of_any_name(databases: Any, home: Any) -> None:
    settings = home(**databases.migrated())
    migrate_schema(settings, load_pipeline(settings).contract, HOSTILE)
    with bulk_transaction(settings, HOSTILE) as session:
        assert PostgresOutcomes(session).add([outcomes_of(1, "x")]) == 1
    assert Apex(settings, HOSTILE).sql("SELECT observed FROM outcomes") == [("x",)]
    assert Apex(settings).sql("SELECT FROM outcomes") == []


# two pipelines side by side


def outcomes_of(run_id: int, observed: str) -> pa.RecordBatch:
    row = {"run_id": run_id, "row_nr": 0, "observed": observed, "source": "raw"}
    return pa.RecordBatch.from_pylist([row], OUTCOME_COLUMNS)


def test_the_rows_of_one_schema_never_appear_in_another(settings: Settings) -> None:
    for number, schema in enumerate(TWO, 1):
        with transaction(settings, schema) as session:
            # the content, the model and all numbers are the same in both
            assert PostgresDrops(session).claim("a" * 64, f"{schema}.parquet", 1, number) == 1
            PostgresAlerts(session).raise_alert("late", "x", schema)
        with champions(settings, schema, "m") as ledger:
            assert ledger.champion() is None
            ledger.record(NewDecision("force", "done", "run", schema, ("why",), to_version=number))
        with bulk_transaction(settings, schema) as bulk:
            PostgresOutcomes(bulk).add([outcomes_of(1, schema)])
    for number, schema in enumerate(TWO, 1):
        apex = Apex(settings, schema)
        assert apex.sql("SELECT drop_id, name, rows FROM drops") == [(1, f"{schema}.parquet", number)]
        assert apex.sql("SELECT observed FROM outcomes") == [(schema,)]
        with read_snapshot(settings, schema) as session:
            views = PostgresViews(session, "m")
            champion = views.champion()
            assert champion is not None and (champion.version, champion.who) == (number, schema)
            assert [alert["message"] for alert in views.open_alerts()] == [schema]
            assert views.drops_by_state() == {"done": 1}
    with read_snapshot(settings, SCHEMA) as session:
        views = PostgresViews(session, "m")
        assert (views.champion(), views.open_alerts(), views.drops_by_state()) == (None, [], {})


def test_each_schema_counts_its_runs_and_has_its_partitions(settings: Settings, contract: Contract) -> None:
    for schema in TWO:
        with connect(settings, schema) as connection:
            assert [take_run_id(connection, 1) for _ in range(3)] == [1, 2, 3]
            large = [take_run_id(connection, 10**9) for _ in range(3)]
            assert large == [1001, 1002, 1003]
        with transaction(settings, schema) as session:
            partitions = PostgresPartitions(session)
            for run_id in large:
                partitions.create_own(run_id)
                partitions.index_own(contract, run_id)
                partitions.attach_own(run_id)
            assert [part.low for part in partitions.attached()] == [1, *large]
    assert merge_closed(settings, "parcels", contract, limit=3) == 1
    attached = {}
    for schema in (SCHEMA, *TWO):
        with transaction(settings, schema) as session:
            attached[schema] = [(part.low, part.high) for part in PostgresPartitions(session).attached()]
    assert attached[SCHEMA] == [] and attached["parcels"] != attached["second_table"]
    assert attached["second_table"] == [(1, 1001), (1001, 1002), (1002, 1003), (1003, 1004)]


def test_a_pipeline_does_not_wait_for_the_locks_of_another(settings: Settings, contract: Contract) -> None:
    with open_outbox(settings, "parcels") as first, open_outbox(settings, "second_table") as other:
        assert first is not None and other is not None
        with open_outbox(settings, "parcels") as again:
            assert again is None
    with only_sender(settings, "parcels"), only_sender(settings, "second_table"):
        pass
    with ExitStack() as stack:
        for schema in TWO:
            session = stack.enter_context(transaction(settings, schema))
            PostgresDrift(session, "m").lock()
            PostgresOutcomes(stack.enter_context(bulk_transaction(settings, schema))).lock()


@pytest.mark.parametrize("path", ["", "second_table", "pg_temp"])
def test_functions_use_the_tables_of_their_schema_by_any_search_path(settings: Settings, path: str) -> None:
    with closing(psycopg2.connect(settings.writer_url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("SELECT set_config('search_path', %s, false)", (path,))
        cursor.execute("CREATE TEMP TABLE scored_partitions (low bigint, high bigint, next bigint)")
        cursor.execute("SELECT parcels.take_run_id(false), parcels.clock() = now()")
        assert cursor.fetchall() == [(1, True)]
        cursor.execute("SELECT count(*) FROM parcels.scored_partitions")
        assert cursor.fetchall() == [(1,)]
        cursor.execute("SELECT count(*) FROM second_table.scored_partitions")
        assert cursor.fetchall() == [(0,)]


# the reader


def test_the_reader_reads_the_views_of_a_schema_and_no_table(settings: Settings) -> None:
    views = {name for (name,) in Apex(settings).sql("SELECT viewname::text FROM pg_views WHERE schemaname = 'parcels'")}
    tables = {name for (name,) in Apex(settings).sql("SELECT tablename FROM pg_tables WHERE schemaname = 'parcels'")}
    assert views and tables
    with closing(connect_reader(settings, "parcels")) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        for view in views:
            cursor.execute(f"SELECT * FROM {view}")
            rows = cursor.fetchall()
            if view == "pipeline_state":
                assert len(rows) == 1 and not any(row[0] for row in rows)
            else:
                assert rows == ([(0, 0, 0, None)] if view == "scoring_totals" else [])
        for table in tables:
            with pytest.raises(psycopg2.errors.InsufficientPrivilege):
                cursor.execute(f"SELECT * FROM {table}")
        cursor.execute("SET default_transaction_read_only = off")
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            cursor.execute("CREATE TABLE mine (n int)")


def test_a_session_finds_nothing_of_another_schema(settings: Settings) -> None:
    Apex(settings).sql("CREATE VIEW second_table.of_its_own AS SELECT 1")
    with (
        closing(psycopg2.connect(settings.writer_url, options=search_path("parcels"))) as connection,
        connection.cursor() as cursor,
        pytest.raises(psycopg2.errors.UndefinedTable),
    ):
        cursor.execute("SELECT * FROM of_its_own")
