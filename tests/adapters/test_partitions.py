"""Partitions of the scored orders: who gets which, merging, dropping, and the way from the one of before."""

from __future__ import annotations

import threading
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg2
import pyarrow as pa
import pytest
from apex_home import Apex

from apex_ml.adapters import migrations, partitions, scored, warehouse
from apex_ml.contract.model import Contract
from apex_ml.contract.tables import scored_orders_ddl
from apex_ml.errors import TransientError

SMALL, LARGE = 1, partitions.OWN_ROWS
RUN = (
    "INSERT INTO apex.scoring_runs (run_id, drop_id, step_run, model_name, model_version, mlflow_run_id,"
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
    with warehouse.connect(apex.settings) as connection:
        return partitions.take_run_id(connection, size)


def fill(apex: Apex, contract: Contract, size: int, rows: int = 3, days: int = 0) -> int:
    """One run of a drop of `size` rows that ended so many days ago; a few stand for all its rows."""
    with scored.transaction(apex.settings) as cursor:
        run_id = taken(apex, size)
        own = size >= partitions.OWN_ROWS
        table = partitions.make_own(cursor, run_id) if own else "scored_orders"
        made = orders(contract, run_id, rows)
        scored.write_orders(cursor, made.schema, made.to_batches(), table=table)
        if own:
            partitions.index_own(cursor, contract, run_id)
            partitions.attach_own(cursor, run_id)
    sha = f"{run_id:064x}"
    apex.sql("INSERT INTO apex.drops (sha256, name, bytes, state) VALUES (%s, %s, 1, 'done')", (sha, f"{run_id}"))
    ((drop_id,),) = apex.sql("SELECT drop_id FROM apex.drops WHERE sha256 = %s", (sha,))
    apex.sql(RUN, (run_id, drop_id, days))
    apex.sql("INSERT INTO apex.outcomes (run_id, row_nr, observed, source) VALUES (%s, 0, 'x', 'drop')", (run_id,))
    return run_id


def parts(apex: Apex) -> list[tuple[str, str]]:
    return apex.sql(  # type: ignore[return-value]
        "SELECT c.relname::text, pg_get_expr(c.relpartbound, c.oid) FROM pg_inherits AS i JOIN pg_class AS c"
        " ON c.oid = i.inhrelid WHERE i.inhparent = 'apex.scored_orders'::regclass ORDER BY length(c.relname), 1"
    )


def contents(apex: Apex) -> list[tuple[Any, ...]]:
    return apex.sql("SELECT * FROM apex.scored_orders ORDER BY run_id, row_nr")


def test_small_drops_share_a_partition_and_large_ones_have_their_own(apex: Apex, contract: Contract) -> None:
    ids = [fill(apex, contract, size) for size in (SMALL, SMALL, LARGE, LARGE, SMALL, SMALL)]
    assert ids == sorted(ids)  # by time: the latest run has the largest id
    assert parts(apex) == [
        ("scored_orders_1", "FOR VALUES FROM ('1') TO ('1001')"),
        ("scored_orders_1001", "FOR VALUES FROM ('1001') TO ('1002')"),
        ("scored_orders_1002", "FOR VALUES FROM ('1002') TO ('1003')"),
        ("scored_orders_1003", "FOR VALUES FROM ('1003') TO ('2003')"),
    ]
    assert [row[0] for row in contents(apex)] == [i for i in ids for _ in range(3)]


def test_every_partition_has_the_indexes_and_no_leftover_of_its_making(apex: Apex, contract: Contract) -> None:
    for size in (SMALL, LARGE, LARGE, LARGE):
        fill(apex, contract, size)
    partitions.merge_closed(apex.settings, contract, most=3)
    found = apex.sql(
        "SELECT t.relname::text, array_agg(replace(pg_get_indexdef(x.indexrelid), t.relname, '') ORDER BY 1),"
        " bool_and(EXISTS (SELECT FROM pg_inherits WHERE inhrelid = x.indexrelid))"
        " FROM pg_index AS x JOIN pg_class AS t ON t.oid = x.indrelid WHERE t.relispartition GROUP BY 1"
    )
    assert len(found) == 3 and all(len(indexes) == 2 and inherited for _, indexes, inherited in found)
    assert apex.sql("SELECT conname FROM pg_constraint WHERE contype = 'c' AND conname = 'own_range'") == []


def test_partitions_are_few_after_many_drops_and_hold_what_they_held(apex: Apex, contract: Contract) -> None:
    for nr in range(30):
        fill(apex, contract, LARGE if nr % 3 else SMALL, rows=1 + nr % 4)
    before = contents(apex)
    many = len(parts(apex))
    assert partitions.merge_closed(apex.settings, contract, most=5) == many - 5
    assert len(parts(apex)) == 5
    assert contents(apex) == before
    newest = fill(apex, contract, LARGE)
    assert [row for row in contents(apex) if row[0] != newest] == before


def test_a_month_is_a_partition_of_its_own(apex: Apex, contract: Contract) -> None:
    first = fill(apex, contract, SMALL)
    apex.sql("UPDATE apex.scored_partitions SET opened_at = opened_at - interval '40 days'")
    assert fill(apex, contract, SMALL) == 1001 and first == 1


def test_many_at_once_get_ids_of_their_own(apex: Apex) -> None:
    found: list[int] = []
    sizes = [SMALL, LARGE] * 10
    threads = [
        threading.Thread(target=lambda s=s: found.append(taken(apex, s)))  # type: ignore[misc]
        for s in sizes
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(set(found)) == len(sizes)


def test_merging_gives_way_to_who_works_with_the_table(apex: Apex, contract: Contract) -> None:
    for _ in range(4):
        fill(apex, contract, LARGE)
    before, rows = parts(apex), contents(apex)
    with closing(psycopg2.connect(apex.settings.writer_url)) as reader, reader.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM apex.scored_orders")
        assert partitions.merge_closed(apex.settings, contract, most=2) == 0
        with pytest.raises(TransientError, match="the scored orders are in use"):
            partitions.drop(
                apex.settings, partitions.droppable(apex.settings, datetime.now(UTC) + timedelta(1)), "50ms"
            )
        reader.rollback()
    assert parts(apex) == before and contents(apex) == rows
    assert partitions.merge_closed(apex.settings, contract, most=2) == 2
    assert contents(apex) == rows


def test_a_run_that_is_under_way_keeps_its_range(apex: Apex, contract: Contract) -> None:
    """Its table is not there yet: a merge over its range would shut it out."""
    for _ in range(2):
        fill(apex, contract, LARGE)
    with scored.transaction(apex.settings) as cursor:
        run_id = taken(apex, LARGE)
        table = partitions.make_own(cursor, run_id)
        for _ in range(2):
            fill(apex, contract, LARGE)
        fill(apex, contract, SMALL)
        partitions.merge_closed(apex.settings, contract, most=1)
        made = orders(contract, run_id, 2)
        scored.write_orders(cursor, made.schema, made.to_batches(), table=table)
        partitions.index_own(cursor, contract, run_id)
        partitions.attach_own(cursor, run_id)
    assert len(contents(apex)) == 5 * 3 + 2
    partitions.merge_closed(apex.settings, contract, most=2)
    assert len(parts(apex)) == 2 and len(contents(apex)) == 5 * 3 + 2


def test_a_range_that_was_never_filled_goes_after_a_day(apex: Apex, contract: Contract) -> None:
    fill(apex, contract, LARGE)
    with pytest.raises(RuntimeError), scored.transaction(apex.settings) as cursor:
        partitions.make_own(cursor, taken(apex, LARGE))
        raise RuntimeError
    fill(apex, contract, LARGE)
    fill(apex, contract, SMALL)
    assert partitions.merge_closed(apex.settings, contract, most=2) == 0
    apex.sql("UPDATE apex.scored_partitions SET opened_at = opened_at - interval '2 days' WHERE low = 2")
    assert partitions.merge_closed(apex.settings, contract, most=2) == 1
    assert len(contents(apex)) == 9


def test_old_partitions_go_whole_with_what_refers_to_them(apex: Apex, contract: Contract) -> None:
    old = [fill(apex, contract, LARGE, days=100), fill(apex, contract, SMALL, days=100)]
    shared = fill(apex, contract, SMALL, days=1)  # in the partition of the second: it keeps it
    newest = fill(apex, contract, LARGE, days=100)  # the newest is never dropped
    found = partitions.droppable(apex.settings, datetime.now(UTC) - timedelta(days=90))
    assert [p.low for p in found] == [old[0]]
    partitions.drop(apex.settings, found)
    kept = {old[1], shared, newest}
    assert {row[0] for row in contents(apex)} == kept
    assert {row[0] for row in apex.sql("SELECT run_id FROM apex.outcomes")} == kept
    assert apex.sql("SELECT count(*) FROM apex.scoring_runs") == [(4,)]
    assert fill(apex, contract, LARGE) > newest


def test_the_one_partition_of_before_is_led_over_with_its_rows(databases: Any, home: Any, contract: Contract) -> None:
    """The schema as it was released first, with data, goes forward to the newest."""
    apex = Apex(home(**databases.empty()))
    files = migrations.migration_files()
    table, *_ = scored_orders_ddl(contract)
    shared = "CREATE TABLE apex.scored_orders_shared PARTITION OF apex.scored_orders DEFAULT"
    shared = shared.replace("DEFAULT", "FOR VALUES FROM (MINVALUE) TO (MAXVALUE)")
    with warehouse.connect(apex.settings) as connection:
        migrations.apply(connection, files[:1], [table, shared])
    apex.sql("INSERT INTO apex.drops (sha256, name, bytes, state) VALUES (repeat('a', 64), 'a', 1, 'done')")
    own_id = RUN.replace("(run_id, drop_id,", "(drop_id,").replace("OVERRIDING SYSTEM VALUE VALUES (%s, ", "VALUES (")
    apex.sql(own_id, (1, 0))
    made = orders(contract, 1, 5)
    with scored.transaction(apex.settings) as cursor:
        scored.write_orders(cursor, made.schema, made.to_batches())
    before = contents(apex)
    migrations.migrate(apex.settings)
    assert contents(apex) == before
    assert parts(apex) == [("scored_orders_1", "FOR VALUES FROM ('1') TO ('2')")]
    assert fill(apex, contract, SMALL) == 2
    assert len(contents(apex)) == 8


def test_a_kill_leaves_no_table_behind(apex: Apex, contract: Contract) -> None:
    with pytest.raises(TransientError), scored.transaction(apex.settings) as cursor:
        partitions.make_own(cursor, taken(apex, LARGE))
        cursor.execute("SELECT pg_backend_pid()")
        (pid,) = cursor.fetchone()
        apex.sql("SELECT pg_terminate_backend(%s)", (pid,))
        partitions.make_own(cursor, 999)
    assert apex.sql("SELECT relname FROM pg_class WHERE relname LIKE 'scored_orders_%%' AND relkind = 'r'") == []


def test_new_partitions_are_analysed_once_also_a_merged_one(apex: Apex, contract: Contract) -> None:
    assert partitions.analyse_new(apex.settings) == 0
    for size in (LARGE, LARGE, SMALL):
        fill(apex, contract, size)
    assert partitions.analyse_new(apex.settings) == 3
    assert partitions.analyse_new(apex.settings) == 0
    known = (
        "SELECT count(DISTINCT tablename) FROM pg_stats WHERE schemaname = 'apex' AND tablename LIKE 'scored_orders%%'"
    )
    assert apex.sql(known) == [(3,)]
    assert partitions.merge_closed(apex.settings, contract, most=2) == 1
    assert partitions.analyse_new(apex.settings) == 1
    assert apex.sql(known) == [(2,)]
