"""Convert JSON lines to a parquet file of text columns with the line of each row, in bounded memory.

As with CSV, everything after that is the code for parquet files, and casts the text by the contract. A key of which no
row was known at first makes a column that is null in the rows before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from apex_ml.adapters.storage.csv_text import read_text
from apex_ml.adapters.storage.json_records import JsonReader, JsonRows, Real, Whole
from apex_ml.adapters.storage.text_rows import MAX_COLUMNS, BadLineWriter, ConvertedFile, RowWriter
from apex_ml.contract.file_format import FileFormat
from apex_ml.contract.names import ROW_NR
from apex_ml.errors import DataError
from apex_ml.text import visible
from apex_ml.wording import counted

MAX_NAMED = 5


def convert_json_lines(
    path: Path,
    folder: Path,
    form: FileFormat,
    single: Callable[[str], str | None] = lambda name: None,
    absent: Callable[[Sequence[str]], Sequence[str]] = lambda names: (),
    *,
    as_table: bool = False,
    may_be_empty: bool = False,
) -> ConvertedFile:
    """Write the objects of a file to a parquet file of the same name in an empty folder.

    `single` returns the column of the contract that a key is, in which a list or an object makes the row bad. `absent`
    is called with all keys, and returns columns that are null in each row. The last column holds the line of each row.
    With `as_table` there is no such column, numbers and truth values have types, and columns with lists or objects are
    left out.
    Raises :class:`~apex_ml.errors.DataError` for a file without an object, unless it `may_be_empty`.
    """
    reader = JsonReader(single, with_kinds=as_table)
    kinds: dict[str, set[type]] = {}
    parts: list[Path] = []
    names: dict[str, None] = {}
    bad_path = folder / "bad-lines.parquet"
    n = 0
    with BadLineWriter(bad_path) as bad, ExitStack() as stack:
        writer: RowWriter | None = None
        for text, last in _with_last(read_text(path, form)):
            rows = reader.feed(text, last=last)
            bad.write(rows.bad)
            for name, types in rows.kinds.items():
                kinds.setdefault(name, set()).update(types)
            if not rows.lines:
                continue
            if writer is None or not rows.columns.keys() <= names.keys():
                names |= dict.fromkeys(rows.columns)
                _refuse_many(path.name, len(names))
                stack.close()
                parts.append(folder / f"part-{len(parts)}")
                writer = stack.enter_context(RowWriter(parts[-1], list(names), True))
            writer.write(_table(rows, list(names)))
            n += len(rows.lines)
    if not n:
        if not may_be_empty:
            raise _no_rows(path.name, bad)
        parts.append(folder / "part-0")
        with RowWriter(parts[0], [], True):
            pass
    nulls = [name for name in absent(list(names)) if name not in names]
    left_out = [name for name, types in kinds.items() if types & {list, dict}]
    fields = [_field(name, kinds, parts) for name in [*names, *nulls] if name not in left_out]
    schema = pa.schema(fields)
    _join(parts, folder / path.name, schema, lines=not as_table)
    notes = [f"{_listed(left_out)}: lists or objects, which no model reads; left out"] if left_out else []
    return ConvertedFile(folder / path.name, bad_path, n, bad.rows, dict(bad.counts), bad.shown(), schema, tuple(notes))


def _with_last(parts: Iterator[bytes]) -> Iterator[tuple[bytes, bool]]:
    for part in parts:
        yield part, False
    yield b"", True


def _refuse_many(name: str, columns: int) -> None:
    if columns > MAX_COLUMNS:
        raise DataError(
            f"{name}: its objects have more than {MAX_COLUMNS:,} different keys; give each row the same keys"
        )


def _no_rows(name: str, bad: BadLineWriter) -> DataError:
    if not bad.rows:
        return DataError(f"{name}: is empty; deliver it with one object a line")
    label, texts = next(iter(bad.shown().items()))
    return DataError(
        f"{name}: no line of it is a row, such as {texts[0]} ({label}); deliver it with one JSON object a line, or"
        " correct format under files in the pipeline's file"
    )


def _table(rows: JsonRows, names: Sequence[str]) -> pa.Table:
    """The rows with a column of each name, and their lines."""
    empty = pa.nulls(len(rows.lines), pa.string())
    columns = [pa.array(rows.columns[name], pa.string()) if name in rows.columns else empty for name in names]
    lines = pa.array(rows.lines, pa.int64())
    return pa.Table.from_arrays([*columns, lines], names=[*(f"c{place}" for place in range(len(names))), ROW_NR])


def _field(name: str, kinds: dict[str, set[type]], parts: Sequence[Path]) -> pa.Field:
    """The column of a table: text, or of the type that all of its values have."""
    types = kinds.get(name, set())
    if types == {bool}:
        return pa.field(name, pa.bool_())
    if types == {Whole} and all(_fits(part, name) for part in parts):
        return pa.field(name, pa.int64())
    if types and types <= {Whole, Real}:
        return pa.field(name, pa.float64())
    return pa.field(name, pa.string())


def _fits(part: Path, name: str) -> bool:
    """Whether all whole numbers of a column have 64 bits."""
    with pq.ParquetFile(part) as file:
        if name not in file.schema_arrow.names:
            return True
        try:
            for batch in file.iter_batches(columns=[name]):
                pc.cast(batch.column(0), pa.int64())
        except pa.ArrowInvalid:
            return False
    return True


def _join(parts: Sequence[Path], to: Path, schema: pa.Schema, *, lines: bool) -> None:
    """Write the parts to one file, each with all columns, of the types of the schema."""
    whole = schema.append(pa.field(ROW_NR, pa.int64())) if lines else schema
    with pq.ParquetFile(parts[0]) as first:
        same = len(parts) == 1 and first.schema_arrow.equals(whole)
    if same:
        parts[0].replace(to)
        return
    with pq.ParquetWriter(to, whole, compression="zstd", compression_level=1) as writer:
        for part in parts:
            with pq.ParquetFile(part) as file:
                for batch in file.iter_batches():
                    writer.write_batch(_completed(batch, schema, whole))
            part.unlink()


def _completed(batch: pa.RecordBatch, schema: pa.Schema, whole: pa.Schema) -> pa.RecordBatch:
    """Rows of a part, whose last column is the line, with all columns."""
    *names, _ = batch.schema.names
    places = {name: place for place, name in enumerate(names)}
    columns = [
        pc.cast(batch.column(places[field.name]), field.type)
        if field.name in places
        else pa.nulls(batch.num_rows, field.type)
        for field in schema
    ]
    return pa.record_batch([*columns, batch.column(len(names))][: len(whole)], schema=whole)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(visible, names[:MAX_NAMED])) + (
        f" and {counted(len(names) - MAX_NAMED, 'other')}" if len(names) > MAX_NAMED else ""
    )
