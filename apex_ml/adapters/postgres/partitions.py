"""The partitions of the scored rows: a large drop gets its own, small ones share one, closed ones are merged.

A partition of its own is filled before it is attached: rows stream into a plain table, then its indexes are built at
once, and only then do others see it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import psycopg2.errors
from typing_extensions import override

from apex_ml.adapters.postgres.connection import Connection, autocommitted, begin, connect, transaction
from apex_ml.adapters.postgres.session import SECOND_KEY, Session
from apex_ml.contract.model import Contract
from apex_ml.errors import TransientError
from apex_ml.faults import reach
from apex_ml.settings import Settings
from apex_ml.sql.tables import SCORED, SHADOW, partition_indexes

logger = logging.getLogger(__name__)
OWN_ROWS = 50_000
"""A drop with this many rows gets its own partition; below it, building indexes row by row costs no more."""
MAX_PARTITIONS = 48
"""Partitions above this number are merged."""
MERGE_LOCK = 7_261_006
"""First key of the advisory lock of a schema under which one process at a time merges or prunes."""
ATTACH_TIMEOUT = "30s"
"""How long a new partition waits for a change of the whole table."""
MERGE_TIMEOUT = "500ms"
"""How long merging waits for a lock: less than deadlock_timeout, so that merging gives way and never a writer."""
PRUNE_TIMEOUT = "10s"
"""How long dropping a partition waits for the queries that use the table."""


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
        return f"scored_{self.low}"


class Partitions(Protocol):
    """The partitions as one transaction sees and changes them."""

    def create_own(self, run_id: int) -> str:
        """Create the table of a run's own partition, without indexes; return its name in the schema."""
        ...

    def index_own(self, contract: Contract, run_id: int) -> None:
        """Index the filled table of a run's own partition."""

    def attach_own(self, run_id: int) -> None:
        """Attach a run's own partition: the last statement of its transaction, as the next to attach waits for its end.

        It waits for a change of the whole table only for a limited time: then the transaction fails, and the step tries
        later.
        """

    def attached(self) -> list[Partition]:
        """All partitions that hold rows or may hold them, by their ranges."""
        ...


class PostgresPartitions(Partitions):
    """The partitions of the table scored."""

    def __init__(self, session: Session) -> None:
        self._session = session

    @override
    def create_own(self, run_id: int) -> str:
        name = f"scored_{run_id:d}"
        _create_table(self._session, name, run_id, run_id + 1)
        return name

    @override
    def index_own(self, contract: Contract, run_id: int) -> None:
        _index(self._session, contract, f"scored_{run_id:d}")

    @override
    def attach_own(self, run_id: int) -> None:
        self._session.execute(f"SET LOCAL lock_timeout = '{ATTACH_TIMEOUT}'")
        _attach(self._session, f"scored_{run_id:d}", run_id, run_id + 1)
        reach("partition_attached")

    @override
    def attached(self) -> list[Partition]:
        rows = self._session.fetch(
            "SELECT p.low, p.high, pg_relation_size(c.oid), (SELECT max(r.finished_at) FROM scoring_runs AS r"
            " WHERE r.run_id >= p.low AND r.run_id < p.high) FROM scored_partitions AS p"
            " JOIN pg_class AS c ON c.oid = to_regclass('scored_' || p.low) AND c.relispartition ORDER BY 1"
        )
        return [Partition(*row) for row in rows]


def _create_table(session: Session, table: str, low: int, high: int) -> None:
    # thanks to the constraint, attaching the table does not read its rows
    session.execute(
        f"CREATE TABLE {table} (LIKE {SCORED} INCLUDING DEFAULTS INCLUDING CONSTRAINTS,"
        f" CONSTRAINT own_range CHECK (run_id >= {low:d} AND run_id < {high:d}))"
    )


def _index(session: Session, contract: Contract, table: str) -> None:
    session.execute("SET LOCAL maintenance_work_mem = '256MB'")
    for statement in partition_indexes(contract, table):
        session.execute(statement)


def _attach(session: Session, table: str, low: int, high: int) -> None:
    session.execute(f"ALTER TABLE {SCORED} ATTACH PARTITION {table} FOR VALUES FROM ({low:d}) TO ({high:d})")
    session.execute(f"ALTER TABLE {table} DROP CONSTRAINT own_range")


def take_run_id(connection: Connection, rows: int) -> int:
    """Take the next run_id in a transaction of its own; one that is not used leaves a gap.

    Raises psycopg2's LockNotAvailable when a new partition cannot be created for long: the next call may do it.
    """
    with begin(connection) as session:
        # the log is written in order: a commit of rows under this id flushes the taking of it, too
        session.execute(f"SET LOCAL synchronous_commit = off; SET LOCAL lock_timeout = '{ATTACH_TIMEOUT}'")
        row = session.fetch_one("SELECT take_run_id(%s)", (rows >= OWN_ROWS,))
    assert row is not None  # the function always returns
    return int(row[0])


def merge_closed(settings: Settings, schema: str, contract: Contract, limit: int = MAX_PARTITIONS) -> int:
    """Merge neighbours, the smallest first, until there are at most `limit` partitions; return how many went.

    The newest partition is left alone. Writers and readers of the table wait only while the names change. When the
    lock is not free at once, the rest is left for the next call.
    """
    with connect(settings, schema) as connection:
        return _merge(connection, contract, limit)


def _merge(connection: Connection, contract: Contract, limit: int) -> int:
    merged = 0
    try:
        while True:
            with begin(connection) as session:
                if not _lock_merging(session) or not _merge_one(session, contract, limit):
                    return merged
            merged += 1
            reach("merge_committed")
    except (psycopg2.errors.LockNotAvailable, psycopg2.errors.DeadlockDetected):
        logger.info("partitions_in_use merged=%s", merged)
    return merged


def _lock_merging(session: Session) -> bool:
    session.execute(f"SET LOCAL lock_timeout = '{MERGE_TIMEOUT}'")
    return session.fetch_one(f"SELECT pg_try_advisory_xact_lock(%s::integer, {SECOND_KEY})", (MERGE_LOCK,)) == (True,)


def _merge_one(session: Session, contract: Contract, limit: int) -> bool:
    # a range without a table belongs to a transaction that is under way, or to one that was rolled back long ago
    session.execute(
        "DELETE FROM scored_partitions AS p WHERE opened_at < now() - interval '1 day' AND low <"
        " (SELECT max(low) FROM scored_partitions) AND to_regclass('scored_' || low) IS NULL"
        " AND NOT EXISTS (SELECT FROM scoring_runs AS r WHERE r.run_id >= p.low AND r.run_id < p.high)"
    )
    pair = _smallest_pair(session, limit)
    if pair is None:
        return False
    a, b = pair
    merging = "scored_merging"
    session.execute(f"LOCK TABLE {a.table}, {b.table} IN SHARE MODE")
    _create_table(session, merging, a.low, b.high)
    for part in pair:
        session.execute(f"INSERT INTO {merging} SELECT * FROM {part.table}")
    _index(session, contract, merging)
    reach("merge_filled")
    session.execute(f"LOCK TABLE {SCORED} IN ACCESS EXCLUSIVE MODE")
    for part in pair:
        session.execute(f"ALTER TABLE {SCORED} DETACH PARTITION {part.table}")
    _attach(session, merging, a.low, b.high)
    session.execute(f"DROP TABLE {a.table}, {b.table}")
    session.execute(f"ALTER TABLE {merging} RENAME TO scored_{a.low}")
    session.execute("DELETE FROM scored_partitions WHERE low = %s", (b.low,))
    session.execute("UPDATE scored_partitions SET high = %s, next = %s WHERE low = %s", (b.high, b.high, a.low))
    reach("merge_swapped")
    logger.info("partitions_merged low=%s high=%s bytes=%s", a.low, b.high, a.bytes + b.bytes)
    return True


def _smallest_pair(session: Session, limit: int) -> tuple[Partition, Partition] | None:
    """The two closed neighbours to merge next; None when there are few enough partitions."""
    attached = PostgresPartitions(session).attached()
    if len(attached) <= limit:
        return None
    lows = [low for (low,) in session.fetch("SELECT low FROM scored_partitions ORDER BY low")]
    following = dict(zip(lows, lows[1:], strict=False))
    closed = attached[:-1]
    pairs = [(a, b) for a, b in zip(closed, closed[1:], strict=False) if following[a.low] == b.low]
    return min(pairs, key=lambda pair: (pair[0].bytes + pair[1].bytes, pair[0].low), default=None)


def analyse_new(settings: Settings, schema: str) -> int:
    """Gather the planner's statistics of partitions that have none; return how many those are.

    Without them a query for one entity's rows reads a whole index; autovacuum comes minutes later.
    """
    with autocommitted(settings, schema) as session:
        session.execute(f"SET lock_timeout = '{MERGE_TIMEOUT}'")
        rows = session.fetch(
            "SELECT c.relname FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid"
            " WHERE i.inhparent = %s::regclass AND pg_relation_size(c.oid) > 0 AND NOT EXISTS"
            " (SELECT FROM pg_stats AS s WHERE s.schemaname = current_schema() AND s.tablename = c.relname)",
            (SCORED,),
        )
        try:
            for (name,) in rows:
                session.execute(f'ANALYZE "{name}"')
        except (psycopg2.errors.LockNotAvailable, psycopg2.errors.UndefinedTable):
            logger.info("partitions_in_use")  # another process merges or prunes: the next call analyses
    return len(rows)


def droppable(settings: Settings, schema: str, before: datetime) -> list[Partition]:
    """The closed partitions whose runs all ended before a moment."""
    with transaction(settings, schema) as session:
        attached = PostgresPartitions(session).attached()
    return [part for part in attached[:-1] if part.newest is None or part.newest < before]


def drop_partitions(settings: Settings, schema: str, partitions: list[Partition], timeout: str = PRUNE_TIMEOUT) -> None:
    """Drop partitions with all that refers to their rows, each in one transaction; ledger and statistics stay.

    Raises :class:`~apex_ml.errors.TransientError` when the table is in use for longer than the timeout.
    """
    with connect(settings, schema) as connection:
        for part in partitions:
            try:
                with begin(connection) as session:
                    session.execute("SELECT set_config('lock_timeout', %s, true)", (timeout,))
                    session.execute(f"SELECT pg_advisory_xact_lock(%s::integer, {SECOND_KEY})", (MERGE_LOCK,))
                    if part in PostgresPartitions(session).attached()[:-1]:  # else it was merged meanwhile
                        _drop_one(session, part)
            except psycopg2.errors.LockNotAvailable as error:
                raise TransientError("the scored rows are in use; run again when the long query has ended") from error


def _drop_one(session: Session, part: Partition) -> None:
    session.execute(f"LOCK TABLE {SCORED} IN ACCESS EXCLUSIVE MODE")
    session.execute(f"DROP TABLE {part.table}")
    for table in ("outcomes", SHADOW):
        session.execute(f"DELETE FROM {table} WHERE run_id >= %s AND run_id < %s", (part.low, part.high))
    session.execute("DELETE FROM scored_partitions WHERE low = %s", (part.low,))
    logger.info("partition_dropped low=%s high=%s bytes=%s", part.low, part.high, part.bytes)
