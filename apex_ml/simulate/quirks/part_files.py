"""Read and replace the part files that quirks damage."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from apex_ml.adapters.storage.atomic_writes import new_file
from apex_ml.errors import DataError
from apex_ml.simulate.files import write_part
from apex_ml.simulate.quirks.table_edits import set_column


def decode_dictionaries(table: pa.Table) -> pa.Table:
    """The table with decoded dictionaries and joined chunks, as a reader of the files sees it."""
    columns = [c.cast(pa.string()) if pa.types.is_dictionary(c.type) else c for c in table.columns]
    return pa.table(columns, names=table.column_names).combine_chunks()


def count_rows(path: Path) -> int:
    """Rows of one file; DataError when an earlier quirk made it unreadable."""
    try:
        return int(pq.read_metadata(path).num_rows)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path.name}: unreadable, damaged before: put quirks that break files last") from error


def read_file(path: Path) -> pa.Table:
    """Read one file, never as a partition of a data set."""
    return decode_dictionaries(pq.ParquetFile(path).read())


def replace_file(table: pa.Table, path: Path, *, arrow_schema: bool = False) -> None:
    """Replace a file in one rename; Arrow's own types of an earlier quirk are kept."""
    kept = arrow_schema
    if path.exists():
        kept |= b"ARROW:schema" in (pq.read_metadata(path).metadata or {})
        for field in pq.read_schema(path):
            if pa.types.is_dictionary(field.type) and field.name in table.column_names:
                table = set_column(table, field.name, table.column(field.name).dictionary_encode())
    with new_file(path) as draft:
        write_part(table, draft, arrow_schema=kept)
