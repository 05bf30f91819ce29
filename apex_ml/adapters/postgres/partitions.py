"""The partitions of the scored orders: a large drop gets its own, small ones share one, closed ones are merged.

A partition of its own is filled before it is attached: rows stream into a plain table, indexes are built over them at
once, and only then does anybody else meet it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg2.errors

from apex_ml.adapters.postgres import warehouse
from apex_ml.contract.model import Contract
from apex_ml.errors import TransientError
from apex_ml.faults import reach
from apex_ml.settings import Settings
from apex_ml.sql.tables import SCORED, SHADOW, partition_indexes

logger = logging.getLogger(__name__)
OWN_ROWS = 50_000
"""A drop of so many rows gets a partition of its own; below it, building indexes row by row costs no more."""
MOST = 48
"""Partitions above this number are merged."""
MERGE_LOCK = 7_261_006
"""Key of the advisory lock under which one process at a time merges or prunes."""
ATTACH_TIMEOUT = "30s"
"""How long a new partition waits for who changes the whole table."""
PATIENCE = "500ms"
"""How long merging waits for a lock: less than deadlock_timeout, so that it gives way and never a writer."""


@dataclass(frozen=True)
class Partition:
    """An attached partition: it holds the runs from `low` to below `high`."""

    low: int
    high: int
    bytes: int
    newest: datetime | None

    @property
    def table(self) -> str:
        """Name of its table."""
        return f"apex.scored_orders_{self.low}"


def take_run_id(connection: warehouse.Connection, rows: int) -> int:
    """Take the next run_id, at once and for good: one that is not used leaves a gap.

    Raises psycopg2's LockNotAvailable when a new partition cannot be made for long: the next call may do it.
    """
    with connection, connection.cursor() as cursor:
        # the log is written in order: whoever commits rows under this id has flushed the taking of it, too
        cursor.execute(
            f"SET LOCAL synchronous_commit = off; SET LOCAL lock_timeout = '{ATTACH_TIMEOUT}';"
            " SELECT apex.take_run_id(%s)",
            (rows >= OWN_ROWS,),
        )
        row = cursor.fetchone()
    assert row is not None  # the function always returns
    return int(row[0])


def make_own(cursor: Any, run_id: int) -> str:
    """Make the table of a run's own partition, without indexes; returns its name in the schema."""
    name = f"scored_orders_{run_id:d}"
    # the check spares attaching it a look at every row
    cursor.execute(
        f"CREATE TABLE apex.{name} (LIKE {SCORED} INCLUDING DEFAULTS INCLUDING CONSTRAINTS,"
        f" CONSTRAINT own_range CHECK (run_id >= {run_id:d} AND run_id < {run_id + 1:d}))"
    )
    return name


def index_own(cursor: Any, contract: Contract, run_id: int) -> None:
    """Index the filled table of a run's own partition."""
    cursor.execute("SET LOCAL maintenance_work_mem = '256MB'")
    for statement in partition_indexes(contract, f"apex.scored_orders_{run_id:d}"):
        cursor.execute(statement)


def attach_own(cursor: Any, run_id: int) -> None:
    """Attach a run's own partition: the last statement of its transaction, as the next to attach waits for its end.

    It does not wait for ever for who works on the whole table: then the transaction fails, and the step tries later.
    """
    cursor.execute(f"SET LOCAL lock_timeout = '{ATTACH_TIMEOUT}'")
    for statement in _attaching(f"apex.scored_orders_{run_id:d}", run_id, run_id + 1):
        cursor.execute(statement)
    reach("partition_attached")


def _attaching(table: str, low: int, high: int) -> list[str]:
    return [
        f"ALTER TABLE {SCORED} ATTACH PARTITION {table} FOR VALUES FROM ({low:d}) TO ({high:d})",
        f"ALTER TABLE {table} DROP CONSTRAINT own_range",
    ]


def attached(cursor: Any) -> list[Partition]:
    """All partitions that hold rows or may, by their ranges."""
    cursor.execute(
        "SELECT p.low, p.high, pg_relation_size(c.oid), (SELECT max(r.finished_at) FROM apex.scoring_runs AS r"
        " WHERE r.run_id >= p.low AND r.run_id < p.high) FROM apex.scored_partitions AS p"
        " JOIN pg_class AS c ON c.oid = to_regclass('apex.scored_orders_' || p.low) AND c.relispartition ORDER BY 1"
    )
    return [Partition(*row) for row in cursor.fetchall()]


def merge_closed(settings: Settings, contract: Contract, most: int = MOST) -> int:
    """Merge neighbours, the smallest first, until there are at most `most` partitions; returns how many went.

    The newest partition is left alone. Writers and readers of the table wait only while the names change; when that is
    not to be had at once, the rest is left for the next call.
    """
    with warehouse.connect(settings) as connection:
        return _merge(connection, contract, most)


def _merge(connection: warehouse.Connection, contract: Contract, most: int) -> int:
    merged = 0
    try:
        while True:
            with connection, connection.cursor() as cursor:
                if not _only_one(cursor) or not _merge_one(cursor, contract, most):
                    return merged
            merged += 1
            reach("merge_committed")
    except (psycopg2.errors.LockNotAvailable, psycopg2.errors.DeadlockDetected):
        logger.info("partitions_in_use merged=%s", merged)
    return merged


def _only_one(cursor: Any) -> bool:
    cursor.execute(f"SET LOCAL lock_timeout = '{PATIENCE}'")
    cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", (MERGE_LOCK,))
    return bool(cursor.fetchone()[0])


def _merge_one(cursor: Any, contract: Contract, most: int) -> bool:
    # a range without a table belongs to a transaction that is under way, or to one that was rolled back long ago
    cursor.execute(
        "DELETE FROM apex.scored_partitions AS p WHERE opened_at < now() - interval '1 day' AND low <"
        " (SELECT max(low) FROM apex.scored_partitions) AND to_regclass('apex.scored_orders_' || low) IS NULL"
        " AND NOT EXISTS (SELECT FROM apex.scoring_runs AS r WHERE r.run_id >= p.low AND r.run_id < p.high)"
    )
    found = attached(cursor)
    if len(found) <= most:
        return False
    cursor.execute("SELECT low FROM apex.scored_partitions ORDER BY low")
    follows = dict(zip(lows := [row[0] for row in cursor.fetchall()], lows[1:], strict=False))
    closed = found[:-1]
    pairs = [(a, b) for a, b in zip(closed, closed[1:], strict=False) if follows[a.low] == b.low]
    if not pairs:
        return False
    a, b = min(pairs, key=lambda pair: (pair[0].bytes + pair[1].bytes, pair[0].low))
    made = "apex.scored_orders_merging"
    cursor.execute("SET LOCAL maintenance_work_mem = '256MB'")
    cursor.execute(f"LOCK TABLE {a.table}, {b.table} IN SHARE MODE")
    cursor.execute(
        f"CREATE TABLE {made} (LIKE {SCORED} INCLUDING DEFAULTS INCLUDING CONSTRAINTS,"
        f" CONSTRAINT own_range CHECK (run_id >= {a.low} AND run_id < {b.high}))"
    )
    for part in (a, b):
        cursor.execute(f"INSERT INTO {made} SELECT * FROM {part.table}")
    for statement in partition_indexes(contract, made):
        cursor.execute(statement)
    reach("merge_filled")
    cursor.execute(f"LOCK TABLE {SCORED} IN ACCESS EXCLUSIVE MODE")
    for part in (a, b):
        cursor.execute(f"ALTER TABLE {SCORED} DETACH PARTITION {part.table}")
    for statement in _attaching(made, a.low, b.high):
        cursor.execute(statement)
    cursor.execute(f"DROP TABLE {a.table}, {b.table}")
    cursor.execute(f"ALTER TABLE {made} RENAME TO scored_orders_{a.low}")
    cursor.execute("DELETE FROM apex.scored_partitions WHERE low = %s", (b.low,))
    cursor.execute("UPDATE apex.scored_partitions SET high = %s, next = %s WHERE low = %s", (b.high, b.high, a.low))
    reach("merge_swapped")
    logger.info("partitions_merged low=%s high=%s bytes=%s", a.low, b.high, a.bytes + b.bytes)
    return True


def analyse_new(settings: Settings) -> int:
    """Gather the planner's statistics of partitions that have none; returns of how many.

    Without them a query for one client's orders reads a whole index; autovacuum comes minutes later.
    """
    with warehouse.connect(settings) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f"SET lock_timeout = '{PATIENCE}'")
            cursor.execute(
                "SELECT c.relname FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid"
                " WHERE i.inhparent = %s::regclass AND pg_relation_size(c.oid) > 0 AND NOT EXISTS"
                " (SELECT FROM pg_stats AS s WHERE s.schemaname = 'apex' AND s.tablename = c.relname)",
                (SCORED,),
            )
            found = [str(row[0]) for row in cursor.fetchall()]
            try:
                for name in found:
                    cursor.execute(f'ANALYZE apex."{name}"')
            except (psycopg2.errors.LockNotAvailable, psycopg2.errors.UndefinedTable):
                logger.info("partitions_in_use")  # somebody merges or prunes: the next call comes
    return len(found)


def droppable(settings: Settings, before: datetime) -> list[Partition]:
    """The closed partitions whose runs all ended before a moment."""
    with warehouse.connect(settings) as connection, connection.cursor() as cursor:
        return [p for p in attached(cursor)[:-1] if p.newest is None or p.newest < before]


def drop(settings: Settings, partitions: list[Partition], patience: str = "10s") -> None:
    """Drop partitions with all that refers to their rows, each in one transaction; ledger and statistics stay.

    Raises :class:`~apex_ml.errors.TransientError` when the table is in use for longer than it waits.
    """
    with warehouse.connect(settings) as connection:
        for part in partitions:
            try:
                with connection, connection.cursor() as cursor:
                    cursor.execute("SELECT set_config('lock_timeout', %s, true)", (patience,))
                    cursor.execute("SELECT pg_advisory_xact_lock(%s)", (MERGE_LOCK,))
                    if part in attached(cursor)[:-1]:  # else it was merged meanwhile
                        _drop_one(cursor, part)
            except psycopg2.errors.LockNotAvailable as error:
                raise TransientError("the scored orders are in use; run again when the long query has ended") from error


def _drop_one(cursor: Any, part: Partition) -> None:
    cursor.execute(f"LOCK TABLE {SCORED} IN ACCESS EXCLUSIVE MODE")
    cursor.execute(f"DROP TABLE {part.table}")
    for table in ("apex.outcomes", SHADOW):
        cursor.execute(f"DELETE FROM {table} WHERE run_id >= %s AND run_id < %s", (part.low, part.high))
    cursor.execute("DELETE FROM apex.scored_partitions WHERE low = %s", (part.low,))
    logger.info("partition_dropped low=%s high=%s bytes=%s", part.low, part.high, part.bytes)
