"""Verify the pages of a parquet file: plausible sizes, and checksums where the writer stored them.

DuckDB reads a page whose bytes have changed without an error as long as it can decode it. Spark writes a CRC32 into the
header of every page, which reveals a changed page. A change goes unnoticed in a page without checksum, in a header and
in the footer. Formats: parquet.thrift (struct PageHeader) and Thrift's compact protocol.
"""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from apex_ml.adapters.duckdb.engine import errors_name, one_row
from apex_ml.adapters.storage.files import open_file
from apex_ml.errors import DataError
from apex_ml.sql.parquet import select_column_chunks, select_rows_and_encryption
from apex_ml.wording import counted

_STOP, _TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(13)
_MAX_DEPTH = 8  # statistics are two structs deep; a page header is not deeper
_USUAL_HEADER, _MAX_HEADER = 512, 2**20
_USUAL_PAGE = 2**26  # a wrong size below it does no harm: unpacking fails
_UNCOMPRESSED_SIZE, _COMPRESSED_SIZE, _CRC = 2, 3, 4
# field ids of FileMetaData, SchemaElement, RowGroup, ColumnChunk, ColumnMetaData, and of parts of ColumnCryptoMetaData
_SCHEMA, _NAME, _CONVERTED_TYPE = 2, 4, 6
_PLACE_AND_SIZE = (9, 11, 7, 6)  # data page, dictionary page, compressed, uncompressed
_NUM_ROWS, _ROW_GROUPS, _COLUMNS, _META_DATA, _CRYPTO, _PATH, _WITH_COLUMN_KEY, _KEY_PATH = 3, 4, 1, 3, 8, 3, 2, 1


@dataclass
class _Reader:
    """Reads values of Thrift's compact protocol. Raises IndexError or ValueError for bytes that are no such value."""

    data: bytes
    at: int

    def varint(self) -> int:
        value = shift = 0
        while True:
            byte = self.data[self.at]
            self.at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
            if shift > 63:
                raise ValueError("a number of more than 64 bits")

    def signed(self) -> int:
        value = self.varint()
        return (value >> 1) ^ -(value & 1)

    def struct(self, depth: int = 0) -> dict[int, int]:
        """Read a struct; returns its whole-number fields by their ids."""
        if depth > _MAX_DEPTH:
            raise ValueError("structs in structs")
        numbers: dict[int, int] = {}
        field = 0
        while True:
            head = self.data[self.at]
            self.at += 1
            if head == _STOP:
                return numbers
            field = field + (head >> 4) if head >> 4 else self.signed()
            kind = head & 0x0F
            if kind in (_I16, _I32, _I64):
                numbers[field] = self.signed()
            elif kind not in (_TRUE, _FALSE):
                self._skip(kind, depth)

    def tree(self, depth: int = 0) -> dict[int, Any]:
        """Read a struct and everything in it; returns its fields by their ids."""
        if depth > _MAX_DEPTH:
            raise ValueError("structs in structs")
        fields: dict[int, Any] = {}
        field = 0
        while True:
            head = self.data[self.at]
            self.at += 1
            if head == _STOP:
                return fields
            field = field + (head >> 4) if head >> 4 else self.signed()
            fields[field] = self._value(head & 0x0F, depth, in_list=False)

    def _value(self, kind: int, depth: int, *, in_list: bool) -> Any:
        if kind in (_TRUE, _FALSE):
            self.at += in_list
            return kind == _TRUE
        if kind in (_I16, _I32, _I64):
            return self.signed()
        if kind == _BINARY:
            length = self.varint()
            self.at += length
            return self.data[self.at - length : self.at]
        if kind in (_LIST, _SET):
            head = self.data[self.at]
            self.at += 1
            length = self.varint() if head >> 4 == 15 else head >> 4
            if length > len(self.data):
                raise ValueError("a list longer than the footer")
            return [self._value(head & 0x0F, depth, in_list=True) for _ in range(length)]
        if kind == _STRUCT:
            return self.tree(depth + 1)
        self._skip(kind, depth)
        return None

    def _skip(self, kind: int, depth: int) -> None:
        if kind == _BINARY:
            length = self.varint()
            self.at += length
        elif kind == _STRUCT:
            self.struct(depth + 1)
        elif kind == _DOUBLE:
            self.at += 8
        elif kind == _BYTE:
            self.at += 1
        else:
            raise ValueError(f"type {kind} is in no page header")


@dataclass(frozen=True)
class _Chunk:
    """A column of a row group, as the footer describes it."""

    column: str
    group: int
    data_page_offset: int
    dictionary_page_offset: int | None
    packed: int
    whole: int


def verify_pages(con: duckdb.DuckDBPyConnection, path: Path) -> int:
    """Refuse a file whose pages contradict their headers; returns its number of rows.

    Raises :class:`~apex_ml.errors.DataError` naming file, column and row group when a checksum does not match, a page
    claims to be larger than its column, or the numbers of rows contradict each other. A header that cannot be read here
    is left to DuckDB, which knows more forms of it. DuckDB also reads the footer: PyArrow ends the process when it
    describes a damaged column.
    """
    with errors_name(path.name):
        total, _ = _rows_and_encryption(con, path)
        try:
            chunks = con.execute(select_column_chunks(path)).fetchall()
        except duckdb.ConversionException:  # a value of the statistics is out of the type's range
            if not (chunks := list(_chunks(_footer(path)))):
                raise
    groups = {(group, rows) for rows, _, group, *_ in chunks}
    if total != sum(rows for _, rows in groups):
        raise DataError(f"{path.name}: a damaged parquet file: its row groups do not add up to {counted(total, 'row')}")
    with open_file(path) as file:
        size = file.seek(0, os.SEEK_END)
        # a group without rows may have no pages
        for chunk in (_Chunk(*values) for rows, *values in chunks if rows > 0):
            if fault := _fault(file, size, chunk):
                where = f"column {chunk.column}, row group {chunk.group}"
                raise DataError(f"{path.name}: damaged in {where}: {fault}; deliver it again")
    return int(total)


def encrypted_columns(con: duckdb.DuckDBPyConnection, path: Path) -> tuple[str, ...]:
    """Names of the encrypted columns of a file whose footer is not encrypted; for a nested column its first name.

    Raises as :func:`verify_pages` does.
    """
    with errors_name(path.name):
        return _rows_and_encryption(con, path)[1]


def columns_of_type(path: Path, converted_type: int) -> list[str]:
    """Names of the columns that a file's footer annotates with a type, by its number in the format."""
    elements = _footer(path).get(_SCHEMA, [])
    return [e[_NAME].decode("utf-8", "replace") for e in elements if e.get(_CONVERTED_TYPE) == converted_type]


def _rows_and_encryption(con: duckdb.DuckDBPyConnection, path: Path) -> tuple[int, tuple[str, ...]]:
    try:
        rows, encryption = one_row(con, select_rows_and_encryption(path))
        if encryption is None:
            return rows, ()
    except duckdb.InvalidInputException:  # the name of a key is bytes, which DuckDB reads as text
        if _NUM_ROWS not in _footer(path):
            raise
    footer = _footer(path)
    names: dict[str, None] = {}
    for group in footer.get(_ROW_GROUPS, []):
        for chunk in group.get(_COLUMNS, []):
            if crypto := chunk.get(_CRYPTO):
                place = crypto.get(_WITH_COLUMN_KEY, {}).get(_KEY_PATH) or chunk.get(_META_DATA, {}).get(_PATH)
                names[(place or [b"?"])[0].decode("utf-8", "replace")] = None
    return footer[_NUM_ROWS], tuple(names)


def _chunks(footer: dict[int, Any]) -> Iterator[tuple[Any, ...]]:
    """Rows, column, row group, offsets and sizes of each column of each row group, from the footer."""
    for group, content in enumerate(footer.get(_ROW_GROUPS, [])):
        for chunk in content.get(_COLUMNS, []):
            about = chunk.get(_META_DATA, {})
            column = b", ".join(about.get(_PATH, [])).decode("utf-8", "replace")
            yield content[_NUM_ROWS], column, group, *(about.get(field) for field in _PLACE_AND_SIZE)


def _footer(path: Path) -> dict[int, Any]:
    """The file's metadata; empty when it cannot be read."""
    with open_file(path) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(size - 8)
        length = int.from_bytes(file.read(4), "little")
        if not 0 < length <= size - 12:
            return {}
        file.seek(size - 8 - length)
        try:
            return _Reader(file.read(length), 0).tree()
        except (IndexError, ValueError):
            return {}


def _fault(file: io.BufferedReader, size: int, chunk: _Chunk) -> str | None:
    at = min(chunk.data_page_offset, chunk.dictionary_page_offset or chunk.data_page_offset)
    end = at + chunk.packed
    if not 4 <= at <= end <= size:
        return "it lies outside the file"
    while at < end:
        header_and_body = _header(file, at)
        if header_and_body is None:
            return None
        header, body = header_and_body
        packed, whole = header.get(_COMPRESSED_SIZE, -1), header.get(_UNCOMPRESSED_SIZE, -1)
        if not (0 <= packed <= size - body and 0 <= whole <= max(chunk.whole, _USUAL_PAGE)):
            return "a page is larger than the column"
        if _CRC in header:
            file.seek(body)
            if zlib.crc32(file.read(packed)) != header[_CRC] & 0xFFFFFFFF:
                return "a page does not match its checksum"
        at = body + packed
    return None


def _header(file: io.BufferedReader, at: int) -> tuple[dict[int, int], int] | None:
    """The numbers in the page header at an offset, and where the page's body begins; None when there is no header."""
    for length in (_USUAL_HEADER, _MAX_HEADER):  # its statistics may hold long texts
        file.seek(at)
        reader = _Reader(file.read(length), 0)
        try:
            return reader.struct(), at + reader.at
        except IndexError:
            continue
        except ValueError:
            return None
    return None
