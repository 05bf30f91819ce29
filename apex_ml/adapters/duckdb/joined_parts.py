"""The parts of a drop that is a folder, as one parquet file: thousands of small files are read once and checked as one.

A part is read with its checksums verified. Columns in its path, such as country=PE, become columns of the file. Parts
whose types differ get types that hold all their values exactly.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from apex_ml.adapters.duckdb.engine import StrictConnection, reason_of
from apex_ml.adapters.duckdb.open_parts import LARGE, OpenedPart, PartReader
from apex_ml.adapters.duckdb.part_places import PartPlaces
from apex_ml.adapters.duckdb.table_file import TableFile
from apex_ml.adapters.storage.inboxes import Part
from apex_ml.adapters.storage.text_rows import ConvertedFile
from apex_ml.contract.model import Contract
from apex_ml.contract.names import ROW_NR
from apex_ml.contract.per_use import Use
from apex_ml.errors import DataError
from apex_ml.faults import reach
from apex_ml.text import visible

GROUP_ROWS = 122_880
"""Rows of a group of the joined file."""


@dataclass(frozen=True)
class JoinedParts:
    """The parts of a folder as one file."""

    source: TableFile
    places: PartPlaces
    path_columns: frozenset[str]
    """Names of the columns that are in the paths of the parts."""


class _OtherSchemaError(Exception):
    """A part has another schema than the first one."""


@contextmanager
def join_parts(
    con: StrictConnection, path: Path, parts: Sequence[Part], contract: Contract, use: Use, scratch: Path
) -> Iterator[JoinedParts]:
    """The parts of a folder as one file below a scratch folder, which is removed at the end.

    Raises :class:`~apex_ml.errors.DataError` naming the part that cannot be read, or whose types contradict another
    part's.
    """
    with tempfile.TemporaryDirectory(prefix=".parts-", dir=scratch) as folder:
        joiner = _Joiner(PartReader(con, path.name, parts, contract, use, Path(folder)), Path(folder))
        try:
            joined = joiner.join(None)
        except _OtherSchemaError:
            joined = joiner.join(joiner.unified())
        yield joined


class _Joiner:
    """Reads the parts of one folder, in their order."""

    def __init__(self, reader: PartReader, folder: Path) -> None:
        self._reader, self._folder = reader, folder

    def join(self, schema: pa.Schema | None) -> JoinedParts:
        """Write the rows of all parts to one file, with this schema or that of the first part.

        Raises _OtherSchemaError when a part has another one than the first.
        """
        path, bad_path = self._folder / self._reader.name, self._folder / "bad-lines.parquet"
        first, first_rows, rows = 0, [], 0
        target = schema
        merged = _MergedText()
        with ExitStack() as stack:
            writer: _Writer | None = None
            for opened in stack.enter_context(self._reader.opened()):
                if target is None:
                    target = opened.schema
                elif schema is None and not _same(opened.schema, target):
                    raise _OtherSchemaError
                writer = writer or stack.enter_context(_Writer(path, target))
                first_rows.append(first)
                merged.add(opened, first)
                last_line = 0
                for table in opened.tables:
                    table = self._fit(table, target, opened.part)
                    if opened.text is not None and table.num_rows:
                        last_line = int(pc.max(table[ROW_NR]).as_py())
                        table = table.set_column(table.num_columns - 1, ROW_NR, pc.add(table[ROW_NR], first))
                    writer.write(table, opened.bytes)
                reach(f"part_{len(first_rows)}_read")
                first += opened.lines(last_line)
                rows += opened.rows
        assert target is not None  # a folder without parts is refused before
        places = PartPlaces(tuple(part.name for part in self._reader.parts), tuple(first_rows))
        text = merged.write(path, bad_path, rows, target)
        return JoinedParts(TableFile(path, text), places, frozenset(self._reader.key_names))

    def unified(self) -> pa.Schema:
        """A schema that holds the values of all parts: an optional column that some parts lack is null there.

        Raises :class:`~apex_ml.errors.DataError` naming a part that would be refused as a file of its own.
        """
        types: dict[str, tuple[pa.DataType, Part]] = {}
        with self._reader.opened() as parts:
            for opened in parts:
                names = opened.schema.names
                if twice := sorted({name for name in names if names.count(name) > 1}):
                    shown = ", ".join(map(visible, twice))
                    raise DataError(f"{self._reader.shown(opened.part)}: repeated columns: {shown}; deliver each once")
                self._reader.refuse_other_names(opened)
                for column in opened.schema:
                    kind, part = types.get(column.name, (column.type, opened.part))
                    types[column.name] = self._common(column, opened.part, kind, part), part
        if ROW_NR in types:  # the line of text is the last column
            types[ROW_NR] = types.pop(ROW_NR)
        return pa.schema([pa.field(name, kind) for name, (kind, _) in types.items()])

    def _common(self, column: pa.Field, part: Part, kind: pa.DataType, other: Part) -> pa.DataType:
        if column.type == kind:
            return kind
        times = [of for of in (kind, column.type) if pa.types.is_timestamp(of) and of.tz is None]
        if len(times) == 1 and pa.types.is_date(kind if times[0] is column.type else column.type):
            return times[0]
        fields = [pa.schema([pa.field(column.name, of)]) for of in (kind, column.type)]
        try:
            return pa.unify_schemas(fields, promote_options="permissive").field(0).type
        except (pa.ArrowTypeError, pa.ArrowInvalid) as error:
            if column.name in self._reader.key_names:
                return pa.string()
            raise DataError(
                f"{self._reader.name}: column {visible(column.name)} is {kind} in {visible(other.name)} and"
                f" {column.type} in {visible(part.name)}; write all parts with one type"
            ) from error

    def _fit(self, table: pa.Table, target: pa.Schema, part: Part) -> pa.Table:
        """A table of a part with the columns and types of the joined file."""
        if _same(table.schema, target):
            return table
        columns = []
        for column in target:
            if column.name not in table.schema.names:
                columns.append(pa.nulls(table.num_rows, column.type))
                continue
            try:
                columns.append(table[column.name].cast(column.type))
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                raise DataError(
                    f"{self._reader.shown(part)}: column {visible(column.name)} is {table[column.name].type}, and other"
                    f" parts make it {column.type}, which does not hold its values exactly ({reason_of(error)}); write"
                    " all parts with one type"
                ) from error
        return pa.Table.from_arrays(columns, schema=target)


class _MergedText:
    """What could not be parsed in the parts of a folder that are text."""

    def __init__(self) -> None:
        self._bad_rows = 0
        self._bad: list[pa.Table] = []
        self._counts: Counter[str] = Counter()
        self._examples: dict[str, tuple[str, ...]] = {}
        self._kinds: dict[bool, Part] = {}

    def add(self, opened: OpenedPart, first: int) -> None:
        """Add a part. Raises :class:`~apex_ml.errors.DataError` for one of another format than the others."""
        self._kinds.setdefault(opened.text is not None, opened.part)
        if len(self._kinds) == 2:
            names = f"{visible(self._kinds[True].name)} is text and {visible(self._kinds[False].name)} is parquet"
            raise DataError(f"{opened.part.path.name}: {names}; deliver all parts of a folder in one format")
        if opened.text is None or opened.bad is None:
            return
        self._bad_rows += opened.text.bad_rows
        self._counts.update(opened.text.bad)
        self._examples = opened.text.examples | self._examples
        numbers = pc.add(opened.bad[ROW_NR], first)
        self._bad.append(opened.bad.set_column(opened.bad.schema.get_field_index(ROW_NR), ROW_NR, numbers))

    def write(self, path: Path, bad_path: Path, rows: int, schema: pa.Schema) -> ConvertedFile | None:
        """The joined text; None when the parts are parquet."""
        if True not in self._kinds:
            return None
        if self._bad:
            pq.write_table(pa.concat_tables(self._bad), bad_path)
        columns = pa.schema([column for column in schema if column.name != ROW_NR])
        return ConvertedFile(path, bad_path, rows, self._bad_rows, dict(self._counts), self._examples, columns)


@dataclass
class _Writer:
    """Writes tables to a file in groups of a fair size."""

    path: Path
    schema: pa.Schema
    _waiting: list[pa.Table] = field(default_factory=list)
    _rows: int = 0
    _bytes: int = 0

    def __enter__(self) -> _Writer:
        self._file = pq.ParquetWriter(self.path, self.schema, compression="snappy", write_statistics=False)
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
        self._file.close()

    def write(self, table: pa.Table, size: int) -> None:
        """Add a table that was read from a file of this size in bytes."""
        self._waiting.append(table)
        self._rows += table.num_rows
        self._bytes += size
        if self._rows >= GROUP_ROWS or self._bytes >= 4 * LARGE:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            self._file.write_table(pa.concat_tables(self._waiting).combine_chunks(), GROUP_ROWS)
        self._waiting, self._rows, self._bytes = [], 0, 0


def _same(schema: pa.Schema, other: pa.Schema) -> bool:
    return bool(schema.equals(other, check_metadata=False))
