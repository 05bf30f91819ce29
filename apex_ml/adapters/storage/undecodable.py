"""Find the values of a parquet file that DuckDB cannot decode, and separate them from the others.

DuckDB fails at a whole file because of one value: a Latin-1 byte in text, a time or timestamp out of range, malformed
JSON. This module reads a column with such values once more, as bytes or numbers, and writes it to a file of its own:
the sound values, null for the others, and the others as text for people.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from apex_ml.adapters.duckdb.engine import VALUE_ERRORS, reason_of
from apex_ml.errors import DataError
from apex_ml.sql.file_types import holds_text
from apex_ml.sql.parquet import hash_values
from apex_ml.sql.recovered_columns import RecoveredColumns
from apex_ml.text import visible, visible_bytes

PLACEHOLDER = "(cannot be decoded)"
ENCRYPTED = "(encrypted)"
_BATCH = 65_536
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_FIRST_SECOND, _LAST_SECOND = -62_135_596_800, 253_402_300_799  # years 1 to 9999
_INT96_UNIT = "ms"  # the finest unit in which every such instant fits into 64 bits


@contextmanager
def recover(
    con: duckdb.DuckDBPyConnection,
    path: Path,
    schema: pa.Schema,
    needed: Sequence[int],
    encrypted: Sequence[int],
    folder: Path,
    inexact: Sequence[int] = (),
) -> Iterator[RecoveredColumns | None]:
    """Yield what can be read of the columns that DuckDB cannot decode, in temporary files below `folder`.

    Yields None when DuckDB decodes every column. Raises :class:`~apex_ml.errors.DataError` naming file, column and row
    group when a column whose place is in `needed` cannot be read at all. The columns at places of `inexact`, decimals
    with more digits than DuckDB holds, are always read, as text.
    """
    files: dict[int, Path] = {}
    hidden = dict.fromkeys(encrypted, ENCRYPTED)
    fields = list(schema)
    with tempfile.TemporaryDirectory(prefix=".recovered-", dir=folder) as scratch:
        for place in range(len(schema)):
            why = "DuckDB holds no more than 38 digits" if place in inexact else None
            if place in hidden or (why := why or _unreadable(con, path, len(schema), place)) is None:
                continue
            kept = Path(scratch, f"{place}.parquet")
            try:
                # PyArrow ends the process when it has no keys for an encrypted file
                kind = None if encrypted else _write(path, schema[place].type, place, kept)
            except _GroupError as error:
                kind, why = None, str(error)
            if kind is not None:
                files[place], fields[place] = kept, pa.field(fields[place].name, kind)
            elif place in needed:
                raise DataError(
                    f"{path.name}: column {visible(schema.names[place])} ({fields[place].type}) cannot be decoded:"
                    f" {why}; write the file again"
                )
            else:
                hidden[place] = PLACEHOLDER
        if files or hidden:
            yield RecoveredColumns(pa.schema(fields), files, hidden)
        else:
            yield None


def _unreadable(con: duckdb.DuckDBPyConnection, path: Path, columns: int, place: int) -> str | None:
    """Why DuckDB cannot decode a column, or show its values as text; None when it can."""
    try:
        con.execute(hash_values(path, columns, place)).fetchall()
    except VALUE_ERRORS as error:
        return reason_of(error)
    return None


class _GroupError(Exception):
    """A row group of a column cannot be read."""


def _write(path: Path, kind: pa.DataType, place: int, kept: Path) -> pa.DataType | None:
    """Write a column's sound values and the others; returns the type of the sound ones, None for a useless type."""
    with pq.ParquetFile(path, coerce_int96_timestamp_unit=_INT96_UNIT) as file:
        parts: Callable[[pa.Array], tuple[pa.Array, pa.Array]]
        sound = pa.string()
        if pa.types.is_timestamp(kind):
            parts, sound = _instants, file.schema_arrow.field(place).type
            kind = pa.timestamp(sound.unit, kind.tz)
        elif pa.types.is_time(kind):
            parts = _times
        elif holds_text(kind):
            parts, kind = _texts, sound
        elif pa.types.is_decimal(kind):
            parts, kind = _decimals, sound
        else:
            return None
        written = pa.schema([pa.field("value", sound), pa.field("bad", pa.string())])
        with pq.ParquetWriter(kept, written) as writer:
            for array in _batches(file, place):
                writer.write_batch(pa.RecordBatch.from_arrays(list(parts(array)), schema=written))
    return kind


def _batches(file: pq.ParquetFile, place: int) -> Iterator[pa.Array]:
    leaf = sum(_leaves(field.type) for field in list(file.schema_arrow)[:place])
    for group in range(file.num_row_groups):
        try:
            for batch in file.reader.iter_batches(_BATCH, row_groups=[group], column_indices=[leaf]):
                yield batch.column(0)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise _GroupError(f"row group {group}: {reason_of(error)}") from error


def _leaves(kind: pa.DataType) -> int:
    """The number of leaf columns that parquet stores for a column."""
    if pa.types.is_nested(kind):
        return sum(_leaves(kind.field(nr).type) for nr in range(kind.num_fields))
    return 1


def _texts(array: pa.Array) -> tuple[pa.Array, pa.Array]:
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    array = array.cast(pa.large_binary())
    try:
        return array.cast(pa.string()), pa.nulls(len(array), pa.string())
    except pa.ArrowInvalid:
        sound: list[str | None] = []
        bad: list[str | None] = []
        for content in array.to_pylist():
            try:
                sound.append(None if content is None else content.decode())
                bad.append(None)
            except UnicodeDecodeError:
                sound.append(None)
                bad.append(visible_bytes(content))
        return pa.array(sound, pa.string()), pa.array(bad, pa.string())


def _numbers(array: pa.Array, what: str) -> tuple[pa.Array, pa.Array]:
    """An array's numbers, and the same as text with their unit."""
    numbers = array.cast(pa.int32()).cast(pa.int64()) if array.type.bit_width == 32 else array.cast(pa.int64())
    return numbers, pc.binary_join_element_wise(numbers.cast(pa.string()), f"{array.type.unit} since {what}", " ")


def _instants(array: pa.Array) -> tuple[pa.Array, pa.Array]:
    numbers, texts = _numbers(array, "1970-01-01")
    per_second = _PER_SECOND[array.type.unit]
    low, high = _FIRST_SECOND * per_second, (_LAST_SECOND + 1) * per_second - 1
    # 64 bits hold fewer years of nanoseconds
    inside = pc.and_(pc.greater_equal(numbers, max(low, -(2**63) + 1)), pc.less_equal(numbers, min(high, 2**63 - 1)))
    return pc.if_else(inside, array, pa.scalar(None, array.type)), pc.if_else(inside, None, texts)


def _times(array: pa.Array) -> tuple[pa.Array, pa.Array]:
    return pa.nulls(len(array), pa.string()), _numbers(array, "midnight")[1]


def _decimals(array: pa.Array) -> tuple[pa.Array, pa.Array]:
    texts = [None if number is None else f"{number:f}" for number in array.to_pylist()]
    short = [t.rstrip("0").rstrip(".") if t is not None and "." in t else t for t in texts]
    return pa.array(short, pa.string()), pa.nulls(len(array), pa.string())
