"""Read the parts of a drop that is a folder, in their order, a few ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from apex_ml.adapters.duckdb.engine import StrictConnection, reason_of
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
from apex_ml.text import visible
from apex_ml.wording import counted

READERS = 2
"""Threads that read parts."""
AHEAD = 16
"""Parts that are read before they are needed."""
LARGE = 32 << 20
"""Bytes of a file that is read in pieces, as it is needed."""
PIECE_ROWS = 65_536
DAMAGED = (pa.ArrowException, OSError, ValueError)


@dataclass
class OpenedPart:
    """A part that is being read."""

    part: Part
    schema: pa.Schema
    tables: Iterator[pa.Table]
    rows: int
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

    def shown(self, part: Part) -> str:
        """Folder and part, for messages."""
        return f"{self.name}: {visible(part.name)}"

    @contextmanager
    def opened(self) -> Iterator[Iterator[OpenedPart]]:
        """The parts in their order; a few are read ahead by other threads."""
        waiting: deque[Future[OpenedPart]] = deque()
        remaining = iter(self.parts)

        def in_order(pool: ThreadPoolExecutor) -> Iterator[OpenedPart]:
            while True:
                while len(waiting) < AHEAD and (part := next(remaining, None)) is not None:
                    waiting.append(pool.submit(self._open, part))
                if not waiting:
                    return
                current = waiting.popleft().result()
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
                        future.result().close()

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
            try:
                file = stack.enter_context(
                    pq.ParquetFile(
                        source.path, page_checksum_verification=True, coerce_int96_timestamp_unit="us",
                        arrow_extensions_enabled=True,
                    )
                )  # fmt: skip
                rows = file.metadata.num_rows
                tables = self._read(part, file, rows)
                if source.path.stat().st_size <= LARGE:
                    tables = iter(list(tables))
                schema = _plain_schema(file.schema_arrow)
            except DAMAGED as error:
                raise self._damaged(part, error) from error
            return OpenedPart(part, schema, tables, rows, text, bad, stack.pop_all().close)
        raise AssertionError  # an exit stack swallows nothing

    def _read(self, part: Part, file: pq.ParquetFile, rows: int) -> Iterator[pa.Table]:
        schema = _plain_schema(file.schema_arrow)
        read = 0
        try:
            for batch in file.iter_batches(PIECE_ROWS, use_threads=False):
                read += batch.num_rows
                columns = [_plain(column) for column in batch.columns]
                yield pa.Table.from_arrays(columns, schema=schema)
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
        return OpenedPart(opened.part, schema, tables, opened.rows, opened.text, opened.bad, opened.close)


def _plain_schema(schema: pa.Schema) -> pa.Schema:
    """Names and types without metadata, dictionaries as their values."""
    return pa.schema([pa.field(column.name, _plain_type(column.type)) for column in schema])


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
