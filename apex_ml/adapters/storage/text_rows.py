"""A file of text as parquet: its rows with their lines, and beside them the lines that cannot be parsed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from apex_ml.adapters.storage.files import open_file
from apex_ml.adapters.storage.parquet_files import ENCRYPTED_MAGIC, PARQUET_MAGIC
from apex_ml.contract.file_format import FileFormat
from apex_ml.contract.names import ROW_NR
from apex_ml.errors import DataError
from apex_ml.json_text import json_text
from apex_ml.text import visible

LINE = "line"
"""The label of a line that cannot be parsed, in the place of a column."""
BAD_TEXT = "encoding: bytes that are no text in the encoding of the file"
HEAD_BYTES = 1024
ROW_GROUP_BYTES = 64 << 20
MAX_COLUMNS = 10_000
MAX_KEPT = 40_000
"""Bytes of a bad line that are kept."""
_MAX_TEXT, _MAX_VALUE, _MAX_EXAMPLE, _EXAMPLES = 10_000, 200, 40, 3
"""Characters kept of a bad line, in its reason and as an example, and the number of examples."""
BAD_LINES = pa.schema([(ROW_NR, pa.int64()), ("reasons", pa.string()), ("row", pa.string())])


@dataclass(frozen=True)
class BadLine:
    """A record that cannot be parsed: its line, from 1, the rule that it breaks, and its text."""

    line: int
    rule: str
    text: bytes
    values: tuple[tuple[str, str], ...] = ()
    """The columns whose values break the rule, with these; none where the line as a whole does."""


@dataclass(frozen=True)
class ConvertedFile:
    """A file of text as parquet. `bad_path` is written only when a line cannot be parsed."""

    path: Path
    bad_path: Path
    rows: int
    """Rows that could be parsed."""
    bad_rows: int
    """Lines that could not be parsed."""
    bad: dict[str, int]
    """The same by label: column and rule. A line may break a rule in several columns."""
    examples: dict[str, tuple[str, ...]]
    schema: pa.Schema
    """Of the columns of the file, all of them text; behind them `path` may have the lines."""
    notes: tuple[str, ...] = ()
    """What a person should know of how the file was read."""


def is_text_table(path: Path, form: FileFormat) -> bool:
    """Whether a file is read as CSV or JSON lines: the pipeline says so, and it does not begin as parquet does.

    A header of CSV may begin with PAR1, but holds no NUL as the first page of a parquet file does.
    """
    if form.format == "parquet":
        return False
    try:
        with open_file(path) as file:
            head = file.read(HEAD_BYTES)
    except FileNotFoundError as error:
        raise DataError(f"{path.name}: the file was removed while it was being read") from error
    return not (head.startswith((PARQUET_MAGIC, ENCRYPTED_MAGIC)) and b"\0" in head)


class RowWriter:
    """Writes rows to a parquet file in groups of a fair size."""

    def __init__(self, path: Path, names: Collection[str], lines: bool) -> None:
        fields = [pa.field(name, pa.string()) for name in names]
        self._schema = pa.schema([*fields, pa.field(ROW_NR, pa.int64())] if lines else fields)
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd", compression_level=1)
        self._waiting: list[pa.Table] = []
        self._bytes = self.rows = 0

    def __enter__(self) -> RowWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
        self._writer.close()

    def write(self, table: pa.Table) -> None:
        """Write the columns of a table by their places."""
        columns = [column.combine_chunks() for column in table.columns[: len(self._schema)]]
        self._waiting.append(pa.Table.from_arrays(columns, schema=self._schema))
        self._bytes += table.nbytes
        self.rows += table.num_rows
        if self._bytes > ROW_GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write_table(pa.concat_tables(self._waiting))
        self._waiting, self._bytes = [], 0


class BadLineWriter:
    """Writes lines that cannot be parsed as quarantined rows, and counts them. Without one no file is written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: pq.ParquetWriter | None = None
        self.rows = 0
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = {}

    def __enter__(self) -> BadLineWriter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def write(self, bad: Sequence[BadLine]) -> None:
        """Write some lines."""
        if not bad:
            return
        rows = []
        for line in bad:
            text = visible(line.text.decode("utf-8", "backslashreplace")[:_MAX_TEXT])
            reasons = []
            for column, value in line.values or ((LINE, text),):
                reasons.append({"column": visible(column), "value": visible(value[:_MAX_VALUE]), "rule": line.rule})
                label = f"{visible(column)}: {line.rule}"
                self.counts[label] += 1
                examples = self.examples.setdefault(label, [])
                if len(examples) < _EXAMPLES:
                    examples.append(visible(value[:_MAX_EXAMPLE]))
            rows.append({ROW_NR: line.line, "reasons": json_text(reasons), "row": json_text({LINE: text})})
        self.rows += len(bad)
        self._writer = self._writer or pq.ParquetWriter(self._path, BAD_LINES, compression="zstd")
        self._writer.write_table(pa.Table.from_pylist(rows, BAD_LINES))

    def shown(self) -> dict[str, tuple[str, ...]]:
        """A few of the texts behind each label."""
        return {label: tuple(texts) for label, texts in self.examples.items()}
