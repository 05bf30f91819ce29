"""Write one scoring run in one transaction: ledger row, scored orders, outcomes, quarantined rows and statistics.

Bulk rows go by ADBC, which streams Arrow into binary COPY; the small statements share its connection, so that all is
one transaction.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import date, datetime
from pathlib import Path
from typing import Any, NamedTuple

import adbc_driver_postgresql.dbapi as adbc
import pyarrow as pa
import pyarrow.parquet as pq

from apex_ml.adapters.postgres.blockers import blockers as others
from apex_ml.adapters.postgres.errors import as_apex_error
from apex_ml.adapters.postgres.warehouse import BAD_DROP, UNKNOWN_VALUES
from apex_ml.adapters.storage.atomic_writes import new_file
from apex_ml.contract.model import Contract
from apex_ml.contract.names import probability_column
from apex_ml.faults import reach
from apex_ml.settings import Settings
from apex_ml.sql.quote import identifier, literals
from apex_ml.sql.tables import SCORED

NAME_LOCK = 7_261_003
"""Mixed into the key of the advisory lock on a drop's name."""
CONNECT_SECONDS = 10
OUTCOMES_LOCK = 7_261_008
"""Key of the advisory lock under which one process at a time matches outcomes."""


class ClassFigures(NamedTuple):
    """Orders of a predicted class and the confidence of their predictions; NaN where there is no order."""

    orders: int
    mean_confidence: float
    median_confidence: float


@contextmanager
def _told_when_down(url: str, written: str = "nothing was written", ask: str = "") -> Iterator[None]:
    try:
        yield
    except adbc.Error as error:
        if not error.sqlstate and isinstance(error, adbc.ProgrammingError):
            raise  # it never reached the server: a fault of the caller
        text = str(error) or type(error).__name__
        code = error.sqlstate or None
        raise as_apex_error(url, text, code, written, others(url, text, code, ask)) from error


@contextmanager
def transactions(settings: Settings) -> Iterator[Callable[[], AbstractContextManager[Any]]]:
    """Connect, and yield a function that begins one transaction after the other, each as :func:`transaction`."""
    url = settings.writer_url
    with _told_when_down(url, ask=settings.reader_url):
        # without a limit a server that accepts and never answers would hold the step for ever
        connection = adbc.connect(f"{url}{'&' if '?' in url else '?'}connect_timeout={CONNECT_SECONDS}")

    @contextmanager
    def begin() -> Iterator[Any]:
        with _told_when_down(url), connection.cursor() as cursor:
            try:
                yield cursor
            except BaseException:
                connection.rollback()
                raise
            # a server that is lost here may have written all of it or nothing
            with _told_when_down(url, "the next run asks the ledger whether it was written"):
                connection.commit()

    try:
        yield begin
    finally:
        with suppress(adbc.Error):  # a lost connection is told where it was needed
            connection.close()


@contextmanager
def transaction(settings: Settings) -> Iterator[Any]:
    """Yield a cursor; commit when the block ends well, roll back otherwise.

    Raises :class:`~apex_ml.errors.TransientError` when Postgres is not there or goes away half way.
    """
    with transactions(settings) as begin, begin() as cursor:
        yield cursor


def export_run(settings: Settings, run_id: int, path: Path, facts: dict[str, str]) -> int:
    """Write the scored orders of a run to a parquet file, in the order of the drop; returns their number.

    Rows stream, so that memory does not grow with the run. `facts` become the file's own key-value metadata.
    """
    with transaction(settings) as cursor, new_file(path) as partial:
        cursor.execute(f"SELECT * FROM {SCORED} WHERE run_id = {int(run_id)} ORDER BY row_nr")
        reader = cursor.fetch_record_batch()
        schema = reader.schema.remove_metadata().with_metadata(facts)
        written = 0
        with pq.ParquetWriter(partial, schema, compression="zstd") as writer:
            for batch in reader:
                writer.write_batch(batch.replace_schema_metadata(facts))
                written += batch.num_rows
    return written


def _one(cursor: Any, query: str, parameters: tuple[Any, ...] = ()) -> Any:
    cursor.execute(query, parameters) if parameters else cursor.execute(query)
    row = cursor.fetchone()
    return row[0] if row else None


def claim_drop(cursor: Any, sha256: str, name: str, size: int, rows: int) -> int | None:
    """Insert the ledger row of a drop; None when this content is there already.

    A second transaction with the same content waits here until the first one ends: that is what makes scoring exactly
    once. An older drop of the same name is marked as superseded: the new content corrects it.
    """
    # two contents of one name are claimed one after the other, so that the later one supersedes the earlier
    cursor.execute("SELECT pg_advisory_xact_lock($1::bigint # hashtextextended($2, 0))", (NAME_LOCK, name))
    drop_id = _one(
        cursor,
        "INSERT INTO apex.drops (sha256, name, bytes, rows, state) VALUES ($1, $2, $3, $4, 'done')"
        " ON CONFLICT (sha256) DO UPDATE SET state = 'done', rows = EXCLUDED.rows, reason = NULL,"
        " rows_quarantined = NULL"
        " WHERE drops.state = 'failed' RETURNING drop_id",
        (sha256, name, size, rows),
    )
    if drop_id is None:
        return None
    _forget_quarantined(cursor, sha256)  # of a delivery that was refused
    cursor.execute(
        "UPDATE apex.drops SET superseded_by = $1 WHERE name = $2 AND state = 'done' AND superseded_by IS NULL"
        " AND drop_id <> $1",
        (drop_id, name),
    )
    _resolve(cursor, name)
    return int(drop_id)


def _resolve(cursor: Any, name: str) -> None:
    """Resolve the alerts about a drop's content, which is scored anew."""
    cursor.execute(
        "UPDATE apex.alerts SET resolved_at = now() WHERE kind IN ($1, $2) AND subject = $3 AND resolved_at IS NULL",
        (BAD_DROP, UNKNOWN_VALUES, name),
    )


def hold_drop(cursor: Any, drop_id: int, name: str, sha256: str) -> None:
    """Hold the ledger row of a drop that is scored again; what was quarantined of it, and its alerts, make way."""
    cursor.execute("SELECT drop_id FROM apex.drops WHERE drop_id = $1 FOR UPDATE", (drop_id,))
    _forget_quarantined(cursor, sha256)
    _resolve(cursor, name)


def _forget_quarantined(cursor: Any, sha256: str) -> None:
    cursor.execute("DELETE FROM apex.quarantined_rows WHERE source_kind = 'drop' AND source_sha256 = $1", (sha256,))


def small_profiles(cursor: Any, model_name: str, version: int, most_rows: int) -> list[dict[str, Any]]:
    """Profiles of the newest runs of a version within a day that scored fewer than so many rows, the newest first."""
    cursor.execute(
        "SELECT profile::text FROM apex.scoring_runs WHERE model_name = $1 AND model_version = $2 AND rows_scored > 0"
        " AND rows_scored < $3 AND profile IS NOT NULL AND finished_at > now() - interval '1 day'"
        " ORDER BY run_id DESC LIMIT $3",
        (model_name, version, most_rows),
    )
    return [json.loads(text) for (text,) in cursor.fetchall()]


def alert_unknown_values(cursor: Any, subject: str, message: str) -> None:
    """Raise the alert about unknown values unless one about this subject is open."""
    cursor.execute(
        "INSERT INTO apex.alerts (kind, subject, message) SELECT $1, $2, $3 WHERE NOT EXISTS"
        " (SELECT FROM apex.alerts WHERE kind = $1 AND subject = $2 AND resolved_at IS NULL)",
        (UNKNOWN_VALUES, subject, message),
    )


def write_orders(
    cursor: Any, schema: pa.Schema, batches: Iterable[pa.RecordBatch], *, table: str = "scored_orders"
) -> int:
    """Stream batches of scored orders into the table; returns their number.

    An error in making a batch is raised as it is: the driver would tell it as one of its own.
    """
    failures: list[Exception] = []

    def remembered() -> Iterator[pa.RecordBatch]:
        try:
            for batch in batches:
                yield batch
                reach("orders_streaming")
        except Exception as error:
            failures.append(error)
            raise

    reader = pa.RecordBatchReader.from_batches(schema, remembered())
    try:
        return int(cursor.adbc_ingest(table, reader, mode="append", db_schema_name="apex"))
    except adbc.Error:
        if failures:
            raise failures[0] from None
        raise


def claim_shadow(
    cursor: Any, run_id: int, version: int, mlflow_run_id: str, feature_snapshot: str, rows: int, step_run: str
) -> bool:
    """Insert the row of a challenger's scoring of a drop; False when it is there already.

    As with :func:`claim_drop`, a second transaction waits here until the first one ends.
    """
    claimed = _one(
        cursor,
        "INSERT INTO apex.shadow_runs"
        " (run_id, model_version, mlflow_run_id, feature_snapshot, rows_scored, step_run, state)"
        " VALUES ($1, $2, $3, $4, $5, $6, 'done') ON CONFLICT DO NOTHING RETURNING run_id",
        (run_id, version, mlflow_run_id, feature_snapshot, rows, step_run),
    )
    return claimed is not None


def shadow_outcomes(settings: Settings, contract: Contract, challenger: int, champion: int) -> pa.Table:
    """Orders that both versions scored and whose class is known, by run and row.

    Columns: entity, timestamp, `observed`, and the probabilities of the challenger (``s_p_…``) and the champion
    (``c_p_…``). Classes that the contract does not have are left out.
    """
    names = [probability_column(level) for level in contract.classes]
    p = ", ".join(f"{t}.{identifier(name)} AS {identifier(f'{t}_{name}')}" for t in ("s", "c") for name in names)
    entity, when = identifier(contract.entity), identifier(contract.timestamp)
    levels = literals(contract.classes)
    with transaction(settings) as cursor:
        cursor.execute(
            f"SELECT c.{entity}, c.{when}, o.observed, {p} FROM apex.shadow_scores AS s"
            " JOIN apex.scored_orders AS c ON c.run_id = s.run_id AND c.row_nr = s.row_nr"
            " JOIN apex.outcomes AS o ON o.run_id = s.run_id AND o.row_nr = s.row_nr"
            f" WHERE s.model_version = $1 AND c.model_version = $2 AND o.observed IN ({levels})"
            " ORDER BY s.run_id, s.row_nr",
            (challenger, champion),
        )
        table: pa.Table = cursor.fetch_arrow_table()
    return table


def write_outcomes(cursor: Any, run_id: int, table: pa.Table) -> None:
    """Keep the targets that came with a drop; `table` has row_nr and observed."""
    if not table.num_rows:
        return
    n = table.num_rows
    full = table.append_column("run_id", pa.array([run_id] * n, pa.int64())).append_column(
        "source", pa.array(["drop"] * n)
    )
    cursor.adbc_ingest("outcomes", full, mode="append", db_schema_name="apex")


def lock_outcomes(cursor: Any) -> None:
    """Wait until no other transaction adds late outcomes; the lock ends with this one."""
    cursor.execute("SELECT pg_advisory_xact_lock($1)", (OUTCOMES_LOCK,))


def current_orders(cursor: Any, contract: Contract, first: date, last: date) -> pa.RecordBatchReader:
    """Stream the current scores of orders of some days, both included.

    The columns are run_id, row_nr, the contract's entity and timestamp, and `known`, the outcome or null, with its
    `source`.
    """
    entity, when = identifier(contract.entity), identifier(contract.timestamp)
    cursor.execute(
        f"SELECT s.run_id, s.row_nr, s.{entity}, s.{when}, o.observed AS known, o.source"
        f" FROM apex.scored_orders_current AS s"
        f" LEFT JOIN apex.outcomes AS o USING (run_id, row_nr)"
        f" WHERE s.{when} BETWEEN $1::text::date AND $2::text::date",
        (first.isoformat(), last.isoformat()),
    )
    return cursor.fetch_record_batch()


def tell_again(cursor: Any, run_ids: list[int]) -> None:
    """Put scoring runs back into the outbox, so that MLflow is told of outcomes that came after it was told of them."""
    if run_ids:
        listed = ", ".join(str(int(n)) for n in run_ids)
        cursor.execute(f"UPDATE apex.mlflow_outbox SET sent_at = NULL WHERE run_id IN ({listed})")


def coverage(cursor: Any) -> list[tuple[date, int, int]]:
    """Day, current scores of orders of that day, and how many of them have an outcome; by day."""
    cursor.execute("SELECT day, scored, with_outcome FROM apex.outcome_coverage ORDER BY day")
    return [(day, int(scored), int(known)) for day, scored, known in cursor.fetchall()]


def _without_nul(column: str) -> str:
    """SQL of JSON text as jsonb, which holds no NUL; the backslash before u0000 may itself be escaped."""
    return rf"regexp_replace({column}, '(?<!\\)((?:\\\\)*)\\u0000', '\1', 'g')::jsonb"


def write_quarantined(cursor: Any, sha256: str, name: str, table: pa.Table) -> None:
    """Keep quarantined rows of a drop; `table` has row_nr, reasons and row, the latter two as JSON text."""
    if not table.num_rows:
        return
    cursor.execute("CREATE TEMP TABLE quarantined_text (row_nr bigint, reasons text, row text) ON COMMIT DROP")
    columns = [
        table.column("row_nr").cast(pa.int64()),
        table.column("reasons").cast(pa.string()),
        table.column("row").cast(pa.string()),
    ]
    cursor.adbc_ingest(
        "quarantined_text", pa.table(columns, ["row_nr", "reasons", "row"]), mode="append", temporary=True
    )
    cursor.execute(
        "INSERT INTO apex.quarantined_rows (source_kind, source_sha256, source_name, row_nr, reasons, row)"
        f" SELECT 'drop', $1, $2, row_nr, {_without_nul('reasons')}, {_without_nul('row')} FROM quarantined_text"
        " ON CONFLICT DO NOTHING",
        (sha256, name),
    )


def write_run(cursor: Any, run: dict[str, Any], classes: dict[str, ClassFigures], batch: str, origin: str = "") -> None:
    """Write the statistics, and the note in the outbox that MLflow is to be told of them.

    Keys of `run` are the columns of scoring_runs; `batch` names the call of the step that the drop is part of.
    """
    names = ", ".join(run)
    values = tuple(v.isoformat() if isinstance(v, datetime) else v for v in run.values())
    casts = {"started_at": "::timestamptz", "finished_at": "::timestamptz", "snapshot_as_of": "::date"}
    casts |= {"profile": "::jsonb"}
    marks = ", ".join(
        f"${i}::text{casts[n]}"
        if n in casts
        else f"nullif(${i}, 'NaN'::float8)"
        if isinstance(run[n], float)
        else f"${i}"
        for i, n in enumerate(run, 1)
    )
    cursor.execute(f"INSERT INTO apex.scoring_runs ({names}) OVERRIDING SYSTEM VALUE VALUES ({marks})", values)
    cursor.execute(
        "INSERT INTO apex.mlflow_outbox (run_id, batch, origin) VALUES ($1, $2, $3)", (run["run_id"], batch, origin)
    )
    rows = [
        f"($1, ${n}, ${n + 1}, nullif(${n + 2}, 'NaN'::float8), nullif(${n + 3}, 'NaN'::float8))"
        for n in range(2, 2 + 4 * len(classes), 4)
    ]
    figures = [value for name, found in classes.items() for value in (name, *found)]
    cursor.execute(
        "INSERT INTO apex.scoring_run_classes (run_id, predicted, orders, mean_confidence, median_confidence)"
        f" VALUES {', '.join(rows)}",
        (run["run_id"], *figures),
    )
