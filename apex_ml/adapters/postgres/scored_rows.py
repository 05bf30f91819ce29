"""The scored rows: written as a stream of Arrow batches, read back as one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from apex_ml.adapters.postgres.bulk import bulk_transaction
from apex_ml.adapters.postgres.session import BulkSession, Session
from apex_ml.adapters.storage.atomic_writes import new_file
from apex_ml.faults import reach
from apex_ml.settings import Settings
from apex_ml.sql.tables import SCORED, SHADOW


def write_scores(
    session: BulkSession, schema: pa.Schema, batches: Iterable[pa.RecordBatch], *, table: str = SCORED
) -> int:
    """Stream batches of scored rows into a table; return their number.

    An error raised while a batch is made is raised as it is.
    """
    return session.ingest(table, schema, _with_fault_point(batches))


def _with_fault_point(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        yield batch
        reach("rows_streaming")


def delete_scores(session: Session, run_ids: Sequence[int]) -> None:
    """Delete what the champion and the challengers scored in some runs, with the outcomes."""
    for table in ("outcomes", SHADOW, SCORED):
        session.execute(f"DELETE FROM {table} WHERE run_id = ANY(%s::bigint[])", (list(run_ids),))


def export_run(settings: Settings, schema: str, run_id: int, path: Path, facts: dict[str, str]) -> int:
    """Write the scored rows of a run to a parquet file, in the order of the drop; return their number.

    Rows stream, so that memory does not grow with the run. `facts` become the file's own key-value metadata.
    """
    with bulk_transaction(settings, schema) as session, new_file(path) as partial:
        reader = session.stream(f"SELECT * FROM {SCORED} WHERE run_id = {int(run_id)} ORDER BY row_nr")
        columns = reader.schema.remove_metadata().with_metadata(facts)
        written = 0
        with pq.ParquetWriter(partial, columns, compression="zstd") as writer:
            for batch in reader:
                writer.write_batch(batch.replace_schema_metadata(facts))
                written += batch.num_rows
    return written
