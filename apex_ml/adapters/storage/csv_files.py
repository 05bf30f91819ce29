"""Convert a CSV file to a parquet file of text columns with the line of each row, in bounded memory.

Everything after that is the code for parquet files: it casts text by the contract. Lines that cannot be parsed are
beside it, in the form of quarantined rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
from numpy.typing import NDArray

from apex_ml.adapters.storage.csv_records import (
    MAX_RECORD,
    Grammar,
    Records,
    Splitter,
    count_line_ends,
    wrong_width,
)
from apex_ml.adapters.storage.csv_text import read_text
from apex_ml.adapters.storage.text_rows import MAX_COLUMNS, BadLine, BadLineWriter, ConvertedFile, RowWriter
from apex_ml.contract.file_format import FileFormat
from apex_ml.contract.names import ROW_NR
from apex_ml.errors import DataError
from apex_ml.json_text import json_text
from apex_ml.text import visible
from apex_ml.wording import counted

_MAX_NAME = 200
"""Characters of a name in an error."""
_OTHER_DELIMITERS = ",;\t|"


def convert_csv(
    path: Path,
    folder: Path,
    form: FileFormat,
    names: Sequence[Sequence[str]] = (),
    is_text: Callable[[str], bool] = lambda name: True,
    *,
    as_table: bool = False,
) -> ConvertedFile:
    """Write the rows of a CSV file to a parquet file of the same name in an empty folder.

    `names` are the possible names of the columns of a file without a header. `is_text` is called with a column's name:
    of another column an empty text in quotes is null, too. The last column holds the line of each row. With `as_table`
    there is no such column.
    Raises :class:`~apex_ml.errors.DataError` when the header cannot be read.
    """
    grammar, parts = Grammar(form), read_text(path, form)
    header, text, line = _read_header(path.name, grammar, parts, read_names=not names)
    if names:
        header = _fitting(path.name, grammar, names, text)
    texts = [is_text(name) for name in header]
    splitter = Splitter(grammar, line, len(header))
    converted = folder / path.name
    bad_path = folder / "bad-lines.parquet"
    with RowWriter(converted, header, not as_table) as rows, BadLineWriter(bad_path) as bad:
        for part, last in _with_last(text, parts):
            records = splitter.feed(part, last=last)
            if (parsed := _parse(records, form, texts)) is None:
                records = splitter.feed_again(records, last=last)
                parsed = _parse(records, form, texts)
                assert parsed is not None  # the line of each record is known
            table, more_bad = parsed
            rows.write(table)
            bad.write(sorted([*records.bad, *more_bad], key=lambda bad_line: bad_line.line))
    schema = pa.schema([pa.field(name, pa.string()) for name in header])
    return ConvertedFile(converted, bad_path, rows.rows, bad.rows, dict(bad.counts), bad.shown(), schema)


def _with_last(first: bytes, parts: Iterator[bytes]) -> Iterator[tuple[bytes, bool]]:
    yield first, False
    for part in parts:
        yield part, False
    yield b"", True


def _read_header(
    name: str, grammar: Grammar, parts: Iterator[bytes], *, read_names: bool
) -> tuple[list[str], bytes, int]:
    """The names in the first record, the text behind it that was read, and the line on which that begins."""
    text, line, last = b"", 1, False
    while True:
        stripped = text.lstrip(b"\r\n")
        line += count_line_ends(text[: len(text) - len(stripped)])
        text = stripped
        match = grammar.record.match(text + b"\n" if last else text)
        if last and not text:
            raise DataError(f"{name}: is empty; deliver it with a row that names the columns")
        if match is not None and (last or match.end() < len(text)):
            break
        if last or len(text) > MAX_RECORD:
            raise DataError(f"{name}: line {line}: the header cannot be read: a quote is not closed; correct it")
        part = next(parts, None)
        last = part is None
        text += part or b""
    if not read_names:
        return [], text, line
    try:
        header = [grammar.text_of(value) for value in grammar.values(match[1])]
    except UnicodeDecodeError as error:
        raise DataError(
            f"{name}: line {line}: the header is no text in the encoding of the file; write its encoding under files in"
            " the pipeline's file, such as encoding: cp1252"
        ) from error
    if len(header) > MAX_COLUMNS:
        raise DataError(f"{name}: has {counted(len(header), 'column')}; at most {MAX_COLUMNS:,} are read")
    _refuse_other_delimiter(name, grammar, header)
    return header, text[match.end() :], line + count_line_ends(match[0][: len(text)])


def _refuse_other_delimiter(name: str, grammar: Grammar, header: Sequence[str]) -> None:
    if len(header) > 1:
        return
    for other in _OTHER_DELIMITERS:
        if other.encode() != grammar.delimiter and header[0].count(other):
            raise DataError(
                f"{name}: has one column, {visible(header[0])[:_MAX_NAME]}; if the values are separated by {other!r},"
                f" write delimiter: {json_text(other)} under files in the pipeline's file"
            )


def _fitting(name: str, grammar: Grammar, candidates: Sequence[Sequence[str]], text: bytes) -> list[str]:
    """The names that fit to the number of values in the first record."""
    match = grammar.record.match(text if text.endswith((b"\n", b"\r")) else text + b"\n")
    assert match is not None  # the header was read the same way
    values = len(grammar.values(match[1]))
    for names in candidates:
        if len(names) == values:
            return list(names)
    raise DataError(
        f"{name}: the first row has {counted(values, 'value')}, and files.names lists"
        f" {' or '.join(str(len(names)) for names in candidates)}; correct the file, or names in the pipeline's file"
    )


def _parse(records: Records, form: FileFormat, texts: Sequence[bool]) -> tuple[pa.Table, list[BadLine]] | None:
    """The rows of some records with their lines, and those with another number of values than the header.

    None when some records have several lines, and their lines are not known.
    """
    width = len(texts)
    names = [f"c{place}" for place in range(width)]
    refused: list[tuple[int, BadLine]] = []

    def refuse(row: pacsv.InvalidRow) -> str:
        number = int(row.number) - 1
        rule = wrong_width(int(row.actual_columns), width)
        refused.append((number, BadLine(_line(records, number), rule, str(row.text).encode("utf-8", "surrogatepass"))))
        return "skip"

    if records.text:
        table = pacsv.read_csv(
            pa.BufferReader(records.text),
            pacsv.ReadOptions(use_threads=False, block_size=len(records.text) + 1, column_names=names),
            pacsv.ParseOptions(
                delimiter=form.delimiter,
                quote_char=form.quote or False,
                escape_char=form.escape or False,
                newlines_in_values=True,
                invalid_row_handler=refuse,
            ),
            pacsv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()),
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
                null_values=list(form.nulls),
            ),
        )
    else:
        table = pa.table([pa.array([], pa.string())] * width, names=names)
    lines = _all_lines(records)
    if len(lines) != table.num_rows + len(refused):
        return None
    lines = np.delete(lines, [number for number, _ in refused])
    columns = [_nulls_of(column, is_text) for column, is_text in zip(table.columns, texts, strict=True)]
    return pa.table([*columns, pa.array(lines)], names=[*names, ROW_NR]), [bad for _, bad in refused]


def _all_lines(records: Records) -> NDArray[np.int64]:
    if records.lines is not None:
        return np.array(records.lines, np.int64)
    return records.first_line + np.arange(count_line_ends(records.text), dtype=np.int64)


def _line(records: Records, number: int) -> int:
    return records.first_line + number if records.lines is None else records.lines[number]


def _nulls_of(column: pa.ChunkedArray, is_text: bool) -> pa.ChunkedArray:
    """A column with nulls in place of empty texts, unless it is text."""
    if is_text:
        return column
    empty = pc.equal(column, "")
    return pc.if_else(empty, pa.scalar(None, pa.string()), column) if pc.any(empty).as_py() else column
