"""Partitions of the scored orders: who gets which, merging, dropping, and the way from the one of before."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import psutil
import psycopg2
import pyarrow as pa
import pytest

from apex_ml import faults
from apex_ml.adapters.postgres import migrations, partitions
from apex_ml.adapters.postgres.bulk import bulk_transaction
from apex_ml.adapters.postgres.connection import begin, connect
from apex_ml.adapters.postgres.partitions import PostgresPartitions
from apex_ml.adapters.postgres.scored_rows import write_scores
from apex_ml.contract.model import Contract
from apex_ml.errors import TransientError
from apex_ml.pipelines import load_pipeline
from apex_ml.settings import Settings
from apex_ml.sql.tables import pipeline_ddl
from tests.support.apex_home import Apex
from tests.support.schema import SCHEMA
from tests.support.throwaway_home import PlainDatabase, plain_postgres

SMALL, LARGE = 1, partitions.OWN_ROWS
RUN = (
    "INSERT INTO orders.scoring_runs (run_id, drop_id, step_run, model_name, model_version, mlflow_run_id,"
    " feature_snapshot, snapshot_as_of, rows_in, rows_scored, rows_quarantined, ms_total, ms_check, ms_features,"
    " ms_predict, ms_write, started_at, finished_at) OVERRIDING SYSTEM VALUE VALUES (%s, %s, 'r', 'm', 1, 'f', 's',"
    " '2024-08-24', 1, 1, 0, 1, 1, 1, 1, 1, now(), now() - make_interval(days => %s))"
)


@pytest.fixture
def apex(databases: Any, home: Any) -> Apex:
    return Apex(home(**databases.migrated()))


def orders(contract: Contract, run_id: int, rows: int) -> pa.Table:
    names = {c.role: c.name for c in contract.columns.values() if c.role in ("entity", "timestamp")}
    columns = {
        "run_id": pa.array([run_id] * rows, pa.int64()),
        "row_nr": pa.array(range(rows), pa.int64()),
        names["entity"]: pa.array([f"C{i:06d}" for i in range(rows)]),
        names["timestamp"]: pa.array([datetime(2024, 8, 24).date()] * rows),
        "predicted": pa.array([contract.classes[0]] * rows),
        "confidence": pa.array([0.5] * rows, pa.float32()),
        "model_version": pa.array([1] * rows, pa.int32()),
        "scored_at": pa.array([datetime.now(UTC)] * rows, pa.timestamp("us", "UTC")),
    }
    return pa.table(columns)


def taken(apex: Apex, size: int) -> int:
    with connect(apex.settings, SCHEMA) as connection:
        return partitions.take_run_id(connection, size)


def fill(apex: Apex, contract: Contract, size: int, rows: int = 3, days: int = 0) -> int:
    """One run of a drop of `size` rows that ended `days` days ago; a few rows represent all of them."""
    with bulk_transaction(apex.settings, SCHEMA) as session:
        run_id = taken(apex, size)
        own = size >= partitions.OWN_ROWS
        table = PostgresPartitions(session).create_own(run_id) if own else "scored"
        created = orders(contract, run_id, rows)
        write_scores(session, created.schema, created.to_batches(), table=table)
        if own:
            PostgresPartitions(session).index_own(contract, run_id)
            PostgresPartitions(session).attach_own(run_id)
    sha = f"{run_id:064x}"
    apex.sql("INSERT INTO orders.drops (sha256, name, bytes, state) VALUES (%s, %s, 1, 'done')", (sha, f"{run_id}"))
    ((drop_id,),) = apex.sql("SELECT drop_id FROM orders.drops WHERE sha256 = %s", (sha,))
    apex.sql(RUN, (run_id, drop_id, days))
    apex.sql("INSERT INTO orders.outcomes (run_id, row_nr, observed, source) VALUES (%s, 0, 'x', 'drop')", (run_id,))
    return run_id


def parts(apex: Apex) -> list[tuple[str, str]]:
    return apex.sql(  # type: ignore[return-value]
        "SELECT c.relname::text, pg_get_expr(c.relpartbound, c.oid) FROM pg_inherits AS i JOIN pg_class AS c"
        " ON c.oid = i.inhrelid WHERE i.inhparent = 'orders.scored'::regclass ORDER BY length(c.relname), 1"
    )


def contents(apex: Apex) -> list[tuple[Any, ...]]:
    return apex.sql("SELECT * FROM orders.scored ORDER BY run_id, row_nr")


def test_small_drops_share_a_partition_and_large_ones_have_their_own(apex: Apex, contract: Contract) -> None:
    ids = [fill(apex, contract, size) for size in (SMALL, SMALL, LARGE, LARGE, SMALL, SMALL)]
    assert ids == sorted(ids)  # by time: the latest run has the largest id
    assert parts(apex) == [
        ("scored_1", "FOR VALUES FROM ('1') TO ('1001')"),
        ("scored_1001", "FOR VALUES FROM ('1001') TO ('1002')"),
        ("scored_1002", "FOR VALUES FROM ('1002') TO ('1003')"),
        ("scored_1003", "FOR VALUES FROM ('1003') TO ('2003')"),
    ]
    assert [row[0] for row in contents(apex)] == [i for i in ids for _ in range(3)]


def test_every_partition_has_the_indexes_and_no_leftovers(apex: Apex, contract: Contract) -> None:
    for size in (SMALL, LARGE, LARGE, LARGE):
        fill(apex, contract, size)
    partitions.merge_closed(apex.settings, SCHEMA, contract, limit=3)
    rows = apex.sql(
        "SELECT t.relname::text, array_agg(replace(pg_get_indexdef(x.indexrelid), t.relname, '') ORDER BY 1),"
        " bool_and(EXISTS (SELECT FROM pg_inherits WHERE inhrelid = x.indexrelid))"
        " FROM pg_index AS x JOIN pg_class AS t ON t.oid = x.indrelid WHERE t.relispartition GROUP BY 1"
    )
    assert len(rows) == 3 and all(len(indexes) == 2 and inherited for _, indexes, inherited in rows)
    assert apex.sql("SELECT conname FROM pg_constraint WHERE contype = 'c' AND conname = 'own_range'") == []


def test_merging_limits_the_partitions_and_keeps_the_rows(apex: Apex, contract: Contract) -> None:
    for nr in range(30):
        fill(apex, contract, LARGE if nr % 3 else SMALL, rows=1 + nr % 4)
    before = contents(apex)
    many = len(parts(apex))
    assert partitions.merge_closed(apex.settings, SCHEMA, contract, limit=5) == many - 5
    assert len(parts(apex)) == 5
    assert contents(apex) == before
    newest = fill(apex, contract, LARGE)
    assert [row for row in contents(apex) if row[0] != newest] == before


def test_each_month_has_its_own_partition(apex: Apex, contract: Contract) -> None:
    first = fill(apex, contract, SMALL)
    apex.sql("UPDATE orders.scored_partitions SET opened_at = opened_at - interval '40 days'")
    assert fill(apex, contract, SMALL) == 1001 and first == 1


def test_concurrent_runs_get_different_ids(apex: Apex) -> None:
    results: list[int] = []
    sizes = [SMALL, LARGE] * 10
    threads = [
        threading.Thread(target=lambda s=s: results.append(taken(apex, s)))  # type: ignore[misc]
        for s in sizes
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(set(results)) == len(sizes)


def test_merging_yields_to_other_sessions(apex: Apex, contract: Contract) -> None:
    for _ in range(4):
        fill(apex, contract, LARGE)
    before, rows = parts(apex), contents(apex)
    with closing(psycopg2.connect(apex.settings.writer_url)) as reader, reader.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM orders.scored")
        assert partitions.merge_closed(apex.settings, SCHEMA, contract, limit=2) == 0
        with pytest.raises(TransientError, match="the scored rows are in use"):
            partitions.drop_partitions(
                apex.settings,
                SCHEMA,
                partitions.droppable(apex.settings, SCHEMA, datetime.now(UTC) + timedelta(1)),
                "50ms",
            )
        reader.rollback()
    assert parts(apex) == before and contents(apex) == rows
    assert partitions.merge_closed(apex.settings, SCHEMA, contract, limit=2) == 2
    assert contents(apex) == rows


def test_a_new_partition_times_out_and_names_the_blocking_session(
    apex: Apex, contract: Contract, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partitions, "ATTACH_TIMEOUT", "100ms")
    fill(apex, contract, LARGE)
    url = apex.settings.writer_url
    with closing(psycopg2.connect(url, application_name="manual query")) as other, other.cursor() as cursor:
        cursor.execute("LOCK TABLE orders.scored IN SHARE UPDATE EXCLUSIVE MODE")
        for size in (SMALL, LARGE):
            with pytest.raises(TransientError, match=r"session \d+ of apex_writer \(manual query\).* holds .*scored"):
                fill(apex, contract, size)
        other.rollback()
    rows = len(contents(apex))
    fill(apex, contract, LARGE)
    assert len(contents(apex)) > rows


def test_a_running_run_keeps_its_range(apex: Apex, contract: Contract) -> None:
    """Its table is not there yet: a merge over its range would shut it out."""
    for _ in range(2):
        fill(apex, contract, LARGE)
    with bulk_transaction(apex.settings, SCHEMA) as session:
        run_id = taken(apex, LARGE)
        table = PostgresPartitions(session).create_own(run_id)
        for _ in range(2):
            fill(apex, contract, LARGE)
        fill(apex, contract, SMALL)
        partitions.merge_closed(apex.settings, SCHEMA, contract, limit=1)
        created = orders(contract, run_id, 2)
        write_scores(session, created.schema, created.to_batches(), table=table)
        PostgresPartitions(session).index_own(contract, run_id)
        PostgresPartitions(session).attach_own(run_id)
    assert len(contents(apex)) == 5 * 3 + 2
    partitions.merge_closed(apex.settings, SCHEMA, contract, limit=2)
    assert len(parts(apex)) == 2 and len(contents(apex)) == 5 * 3 + 2


def test_an_unused_range_is_removed_after_a_day(apex: Apex, contract: Contract) -> None:
    fill(apex, contract, LARGE)
    with pytest.raises(RuntimeError), bulk_transaction(apex.settings, SCHEMA) as session:
        PostgresPartitions(session).create_own(taken(apex, LARGE))
        raise RuntimeError
    fill(apex, contract, LARGE)
    fill(apex, contract, SMALL)
    assert partitions.merge_closed(apex.settings, SCHEMA, contract, limit=2) == 0
    apex.sql("UPDATE orders.scored_partitions SET opened_at = opened_at - interval '2 days' WHERE low = 2")
    assert partitions.merge_closed(apex.settings, SCHEMA, contract, limit=2) == 1
    assert len(contents(apex)) == 9


def test_old_partitions_are_dropped_with_their_references(apex: Apex, contract: Contract) -> None:
    old = [fill(apex, contract, LARGE, days=100), fill(apex, contract, SMALL, days=100)]
    shared = fill(apex, contract, SMALL, days=1)  # in the partition of the second: it keeps it
    newest = fill(apex, contract, LARGE, days=100)  # the newest is never dropped
    result = partitions.droppable(apex.settings, SCHEMA, datetime.now(UTC) - timedelta(days=90))
    assert [p.low for p in result] == [old[0]]
    partitions.drop_partitions(apex.settings, SCHEMA, result)
    kept = {old[1], shared, newest}
    assert {row[0] for row in contents(apex)} == kept
    assert {row[0] for row in apex.sql("SELECT run_id FROM orders.outcomes")} == kept
    assert apex.sql("SELECT count(*) FROM orders.scoring_runs") == [(4,)]
    assert fill(apex, contract, LARGE) > newest


def test_the_former_single_partition_is_migrated_with_its_rows(databases: Any, home: Any, contract: Contract) -> None:
    """The first released schema, with data, migrates to the newest one."""
    apex = Apex(home(**databases.empty()))
    files = migrations.migration_files()
    table, *_ = pipeline_ddl(contract, SCHEMA)
    table = table.replace(".scored ", ".scored_orders ")
    shared = "CREATE TABLE orders.scored_orders_shared PARTITION OF orders.scored_orders DEFAULT"
    shared = shared.replace("DEFAULT", "FOR VALUES FROM (MINVALUE) TO (MAXVALUE)")
    with connect(apex.settings, SCHEMA) as connection:
        migrations.apply(connection, SCHEMA, files[:1], [table, shared])
    apex.sql("INSERT INTO orders.drops (sha256, name, bytes, state) VALUES (repeat('a', 64), 'a', 1, 'done')")
    own_id = RUN.replace("(run_id, drop_id,", "(drop_id,").replace("OVERRIDING SYSTEM VALUE VALUES (%s, ", "VALUES (")
    apex.sql(own_id, (1, 0))
    created = orders(contract, 1, 5)
    with bulk_transaction(apex.settings, SCHEMA) as session:
        write_scores(session, created.schema, created.to_batches(), table="scored_orders")
    before = apex.sql("SELECT * FROM orders.scored_orders ORDER BY run_id, row_nr")
    migrations.migrate(apex.settings, load_pipeline(apex.settings))
    assert contents(apex) == before
    assert parts(apex) == [("scored_1", "FOR VALUES FROM ('1') TO ('2')")]
    assert fill(apex, contract, SMALL) == 2
    assert len(contents(apex)) == 8


def test_a_kill_leaves_no_table_behind(apex: Apex, contract: Contract) -> None:
    with pytest.raises(TransientError), bulk_transaction(apex.settings, SCHEMA) as session:
        PostgresPartitions(session).create_own(taken(apex, LARGE))
        ((pid,),) = session.fetch("SELECT pg_backend_pid()")
        apex.sql("SELECT pg_terminate_backend(%s)", (pid,))
        PostgresPartitions(session).create_own(999)
    assert apex.sql(r"SELECT relname FROM pg_class WHERE relname ~ '^scored_\d+$' AND relkind = 'r'") == []


def test_new_and_merged_partitions_are_analysed_once(apex: Apex, contract: Contract) -> None:
    assert partitions.analyse_new(apex.settings, SCHEMA) == 0
    for size in (LARGE, LARGE, SMALL):
        fill(apex, contract, size)
    assert partitions.analyse_new(apex.settings, SCHEMA) == 3
    assert partitions.analyse_new(apex.settings, SCHEMA) == 0
    known = (
        "SELECT count(DISTINCT tablename) FROM pg_stats WHERE schemaname = 'orders' AND tablename"
        r" ~ '^scored_\d+$'"
    )
    assert apex.sql(known) == [(3,)]
    assert partitions.merge_closed(apex.settings, SCHEMA, contract, limit=2) == 1
    assert partitions.analyse_new(apex.settings, SCHEMA) == 1
    assert apex.sql(known) == [(2,)]


# ---- killed while it merges


def shape(apex: Apex) -> list[tuple[Any, ...]]:
    """Partitions with their ranges, and all indexes and constraints of the scored orders."""
    ranges = apex.sql("SELECT low, high, next FROM orders.scored_partitions ORDER BY 1")
    return [*parts(apex), *ranges] + apex.sql(
        "SELECT c.relname::text, array(SELECT regexp_replace(pg_get_indexdef(x.indexrelid), 'INDEX .* ON', '') ||"
        " (EXISTS (SELECT FROM pg_inherits WHERE inhrelid = x.indexrelid))::text FROM pg_index AS x"
        " WHERE x.indrelid = c.oid ORDER BY 1), array(SELECT pg_get_constraintdef(k.oid) FROM pg_constraint AS k"
        r" WHERE k.conrelid = c.oid ORDER BY 1) FROM pg_class AS c WHERE c.relname ~ '^scored(_\d+)?$'"
        " AND c.relkind IN ('r', 'p') ORDER BY 1"
    )


def seen_by_people(apex: Apex) -> list[tuple[Any, ...]]:
    return apex.sql(
        "SELECT v.*, l.n, c.n FROM (SELECT run_id, count(*), count(DISTINCT row_nr), min(row_nr), max(row_nr)"
        " FROM orders.scored GROUP BY 1) AS v"
        " JOIN (SELECT run_id, count(*) AS n FROM orders.lineage GROUP BY 1) AS l USING (run_id)"
        " JOIN (SELECT run_id, count(*) AS n FROM orders.scored_current JOIN orders.drop_summary USING (run_id)"
        " GROUP BY 1) AS c USING (run_id) ORDER BY 1"
    )


@contextmanager
def polled(apex: Apex) -> Iterator[list[int]]:
    """A reader that must see the same all along; a server that is away for a while is no fault."""
    expected = seen_by_people(apex)
    end, polls, wrong = threading.Event(), [0], []

    def poll() -> None:
        while not end.wait(0.01):
            try:
                result = seen_by_people(apex)
            except (psycopg2.OperationalError, psycopg2.InterfaceError):
                continue
            polls[0] += 1
            if result != expected:
                wrong.append(result)

    reader = threading.Thread(target=poll)
    reader.start()
    try:
        yield polls
    finally:
        end.set()
        reader.join(30)
    assert wrong == [] and polls[0] > 5


def merge(settings: Settings, contract: Contract, point: str) -> None:
    faults.arm(point)
    try:
        partitions.merge_closed(settings, SCHEMA, contract, limit=MERGED_TO)
    except TransientError as error:
        sys.exit(error.exit_code)


def until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.01)


MERGED_TO = 3
MOMENTS = [(point, postgres) for postgres in (False, True) for point in ("merge_filled", "merge_swapped")]
MOMENTS.append(("merge_committed", True))
"""Fault points, and whether Postgres is killed there, else the process."""
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["pytest", "pyarrow.parquet", "apex_ml.adapters.postgres.partitions", "apex_ml.settings"])


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[PlainDatabase]:
    """A Postgres that may be killed."""
    with plain_postgres() as instance:
        migrations.migrate(instance.settings, load_pipeline(instance.settings))
        yield instance


def many(apex: Apex, contract: Contract) -> None:
    for nr in range(8):
        fill(apex, contract, LARGE if nr % 3 else SMALL, rows=1 + nr)


def test_a_killed_merge_changes_nothing_and_the_next_one_completes_it(
    apex: Apex, own_postgres: PlainDatabase, contract: Contract
) -> None:
    many(apex, contract)
    before = len(parts(apex))
    assert partitions.merge_closed(apex.settings, SCHEMA, contract, limit=MERGED_TO) == before - MERGED_TO
    undisturbed, own = shape(apex), Apex(own_postgres.settings)
    many(own, contract)
    rows, whole = contents(own), shape(own)
    # without a point they are what they were, after a merge is committed one fewer
    with polled(own) as polls:
        for point, kill_postgres in MOMENTS:
            armed = point + faults.HALT if kill_postgres else point
            worker = _FORKS.Process(target=merge, args=(own.settings, contract, armed))
            left = len(parts(own))
            worker.start()
            if kill_postgres:
                until(lambda pid=worker.pid: psutil.Process(pid).status() == psutil.STATUS_STOPPED)  # type: ignore[misc]
                own_postgres.kill()
                own_postgres.start()
                assert worker.pid is not None
                os.kill(worker.pid, signal.SIGCONT)
            worker.join(60)
            assert worker.exitcode == (TransientError.exit_code if kill_postgres else -signal.SIGKILL), point
            assert len(parts(own)) == left - (point == "merge_committed")
            if point != "merge_committed":
                assert shape(own) == whole
            until(lambda looked=polls[0]: polls[0] >= looked + 2)  # type: ignore[misc]
        assert partitions.merge_closed(own.settings, SCHEMA, contract, limit=MERGED_TO) == before - MERGED_TO - 1
    assert shape(own) == undisturbed
    assert contents(own) == rows


# ---- years

NIGHTS = 1_826


def test_five_years_of_nights_leave_at_most_64_partitions(apex: Apex, contract: Contract) -> None:
    """One drop per night, every third one large; each night merges as scoring does.

    Some claims are rolled back, and in some nights a long query blocks the merge.
    """
    names = [c.name for c in contract.columns.values() if c.role in ("entity", "timestamp")]
    insert = (
        f"INSERT INTO orders.{{}} (run_id, row_nr, {', '.join(names)}, predicted, confidence, model_version, scored_at)"
        " SELECT %s, n, 'C1', DATE '2024-08-24', 'x', 0.5, 1, now() FROM generate_series(0, 1) AS n"
    )
    most = runs = 0
    with connect(apex.settings, SCHEMA) as connection:
        for night in range(NIGHTS):
            with connection, connection.cursor() as cursor:  # a day passes
                cursor.execute("UPDATE orders.scored_partitions SET opened_at = opened_at - interval '1 day'")
            own = night % 3 == 0
            run_id = partitions.take_run_id(connection, LARGE if own else SMALL)
            if night % 24 != 0:  # else the drop was bad: its range stays empty
                with begin(connection) as session:
                    table = PostgresPartitions(session).create_own(run_id) if own else "scored"
                    session.execute(insert.format(table), (run_id,))
                    if own:
                        PostgresPartitions(session).index_own(contract, run_id)
                        PostgresPartitions(session).attach_own(run_id)
                runs += 1
            if night % 90 not in range(9):
                partitions._merge(connection, contract, partitions.MAX_PARTITIONS)
            with connection, connection.cursor() as cursor:
                cursor.execute("SELECT count(*) FROM pg_inherits WHERE inhparent = 'orders.scored'::regclass")
                ((rows,),) = cursor.fetchall()
            most = max(most, rows)
    assert 40 < most <= 64, most
    assert apex.sql("SELECT count(*), count(DISTINCT run_id) FROM orders.scored") == [(2 * runs, runs)]
