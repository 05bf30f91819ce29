"""Read the parts of a drop that is a folder, in their order, a few ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from apex_ml.adapters.duckdb.derived_types import derived_types
from apex_ml.adapters.duckdb.engine import StrictConnection, reason_of
from apex_ml.adapters.duckdb.file_schema import refuse_other_names
from apex_ml.adapters.duckdb.key_columns import key_columns
from apex_ml.adapters.duckdb.table_file import as_parquet
from apex_ml.adapters.storage.files import name_errors
from apex_ml.adapters.storage.inboxes import Part
from apex_ml.adapters.storage.parquet_files import check_parquet
from apex_ml.adapters.storage.path_keys import column_keys
from apex_ml.adapters.storage.text_rows import ConvertedFile
from apex_ml.contract.model import Contract
from apex_ml.contract.names import ROW_NR
from apex_ml.contract.per_use import Use
from apex_ml.errors import DataError
from apex_ml.sql.row_checks import compile_row_checks
from apex_ml.text import visible
from apex_ml.wording import counted

READERS = 2
"""Threads that read parts."""
AHEAD = 4
"""Groups of parts that are read before they are needed."""
LARGE = 8 << 20
"""Bytes of a file that is read in pieces, as it is needed, and of a group of smaller ones."""
GROUP_PARTS = 64
PIECE_ROWS = 65_536
DAMAGED = (pa.ArrowException, OSError, ValueError)


@dataclass
class OpenedPart:
    """A part that is being read."""

    part: Part
    schema: pa.Schema
    tables: Iterator[pa.Table]
    rows: int
    bytes: int
    text: ConvertedFile | None
    bad: pa.Table | None
    """The lines of a part of text that cannot be parsed."""
    close: Callable[[], None]

    def lines(self, table_lines: int) -> int:
        """The number after that of the last row: of text its line."""
        if self.text is None:
            return self.rows
        bad = 0 if self.bad is None or not len(self.bad) else int(pc.max(self.bad[ROW_NR]).as_py())
        return max(table_lines, bad) + 1


class PartReader:
    """Reads the parts of one folder. `name` is that of the folder; `scratch` holds what is converted."""

    def __init__(
        self, con: StrictConnection, name: str, parts: Sequence[Part], contract: Contract, use: Use, scratch: Path
    ) -> None:
        self._con, self.name, self.parts = con, name, parts
        self._contract, self._use, self._scratch = contract, use, scratch
        self.key_names: set[str] = set()
        """The columns of the paths of the parts that were read."""
        self._last_schema = pa.schema([]), pa.schema([])
        self._checked_names: set[tuple[str, ...]] = set()

    def shown(self, part: Part) -> str:
        """Folder and part, for messages."""
        return f"{self.name}: {visible(part.name)}"

    def refuse_other_names(self, opened: OpenedPart) -> None:
        """Raise :class:`~apex_ml.errors.DataError` for a part without a required column, as for a file of its own.

        In JSON lines a key that no object has is null.
        """
        names = tuple(opened.schema.names)
        of_json = opened.text is not None and self._contract.files.format == "jsonl"
        if of_json or names in self._checked_names:
            return
        columns = [column for column in opened.schema if column.name != ROW_NR]
        checks = compile_row_checks(
            self._contract, self._use, pa.schema(columns), None, derived=derived_types(self._contract)
        )
        with name_errors(opened.part.path, self.shown(opened.part)):
            refuse_other_names(opened.part.path, self._contract, checks)
        self._checked_names.add(names)

    @contextmanager
    def opened(self) -> Iterator[Iterator[OpenedPart]]:
        """The parts in their order; a few are read ahead by other threads."""
        waiting: deque[Future[list[OpenedPart]]] = deque()
        groups = self._groups()

        def in_order(pool: ThreadPoolExecutor) -> Iterator[OpenedPart]:
            while True:
                while len(waiting) < AHEAD and (group := next(groups, None)) is not None:
                    waiting.append(pool.submit(self._open_all, group))
                if not waiting:
                    return
                for current in waiting.popleft().result():
                    try:
                        yield self._with_keys(current)
                    finally:
                        current.close()

        with ThreadPoolExecutor(READERS) as pool:
            try:
                yield in_order(pool)
            finally:
                for future in waiting:
                    if not future.cancel() and future.exception() is None:
                        for opened in future.result():
                            opened.close()

    def _groups(self) -> Iterator[list[Part]]:
        """The parts in groups that one thread reads: a small part takes less time than to hand it over."""
        group: list[Part] = []
        size = 0
        for part in self.parts:
            group.append(part)
            size += _size(part.path)
            if len(group) == GROUP_PARTS or size > LARGE:
                yield group
                group, size = [], 0
        if group:
            yield group

    def _open_all(self, parts: Sequence[Part]) -> list[OpenedPart]:
        with ExitStack() as stack:
            opened = []
            for part in parts:
                opened.append(self._open(part))
                stack.callback(opened[-1].close)
            stack.pop_all()
            return opened
        raise AssertionError  # an exit stack swallows nothing

    def _open(self, part: Part) -> OpenedPart:
        """Open a part; a small one is read."""
        with ExitStack() as stack, name_errors(part.path, self.shown(part)):
            keys = column_keys(self._contract, part.name)
            source = stack.enter_context(
                as_parquet(part.path, self._contract, self._use, self._scratch, keys, is_part=True)
            )
            text = source.text
            if text is None:
                check_parquet(part.path)
            bad = pq.read_table(text.bad_path) if text is not None and text.bad else None
            size = _size(source.path)
            try:
                file = stack.enter_context(
                    pq.ParquetFile(
                        # reading a small file at once takes half of the time
                        pa.BufferReader(source.path.read_bytes()) if size <= LARGE else source.path,
                        page_checksum_verification=True,
                        pre_buffer=False,
                        coerce_int96_timestamp_unit="us",
                        arrow_extensions_enabled=True,
                    )
                )
                rows, schema = file.metadata.num_rows, self._plain_schema(file.schema_arrow)
                tables = self._read(part, file, rows, schema)
                if size <= LARGE:
                    tables = iter(list(tables))
            except DAMAGED as error:
                raise self._damaged(part, error) from error
            return OpenedPart(part, schema, tables, rows, size, text, bad, stack.pop_all().close)
        raise AssertionError  # an exit stack swallows nothing

    def _plain_schema(self, schema: pa.Schema) -> pa.Schema:
        """Names and types without metadata, dictionaries as their values."""
        stored, plain = self._last_schema
        if not schema.equals(stored):
            plain = pa.schema([pa.field(column.name, _plain_type(column.type)) for column in schema])
            self._last_schema = schema, plain
        return plain

    def _read(self, part: Part, file: pq.ParquetFile, rows: int, schema: pa.Schema) -> Iterator[pa.Table]:
        read = 0
        try:
            for batch in file.iter_batches(PIECE_ROWS, use_threads=False):
                read += batch.num_rows
                yield pa.Table.from_arrays([_plain(column) for column in batch.columns], schema=schema)
        except DAMAGED as error:
            raise self._damaged(part, error) from error
        if read != rows:
            raise DataError(
                f"{self.shown(part)}: a damaged parquet file: its row groups do not add up to {counted(rows, 'row')}"
            )

    def _damaged(self, part: Part, error: Exception) -> DataError:
        return DataError(f"{self.shown(part)}: a damaged parquet file; deliver it again ({reason_of(error)})")

    def _with_keys(self, opened: OpenedPart) -> OpenedPart:
        """A part with the columns of its path, before that of the lines of text."""
        keys = column_keys(self._contract, opened.part.name)
        if not keys:
            return opened
        with name_errors(opened.part.path, self.shown(opened.part)):
            columns = key_columns(self._con, opened.part.path, self._contract, opened.schema, keys)
        place = len(opened.schema) - (opened.text is not None)
        values = {column.name: _value(keys[column.name], column.kind) for column in columns}
        self.key_names |= set(values)
        tables = (_insert(table, place, values) for table in opened.tables)
        schema = _insert(opened.schema.empty_table(), place, values).schema
        return replace(opened, schema=schema, tables=tables)


def _size(path: Path) -> int:
    """The size of a file; 0 of one that is gone, which is reported when it is read."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _plain_type(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _plain(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _value(value: str | None, kind: pa.DataType) -> pa.Scalar:
    if value is None:
        return pa.scalar(None, pa.null())
    return pa.scalar(date.fromisoformat(value) if pa.types.is_date(kind) else value, kind)


def _insert(table: pa.Table, place: int, values: Mapping[str, pa.Scalar]) -> pa.Table:
    for name, value in reversed(list(values.items())):
        column = pa.nulls(table.num_rows) if not value.is_valid else pa.repeat(value, table.num_rows)
        table = table.add_column(place, pa.field(name, column.type), column)
    return table
