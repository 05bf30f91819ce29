"""Verify what a parquet file says of its own pages: sizes that can be, and checksums where the writer left them.

DuckDB reads a page whose bytes have changed without a word as long as it can be decoded. Spark writes a CRC32 into the
header of every page, which tells a changed page apart; a page without one, the headers and the footer cannot be told.
Formats: parquet.thrift (struct PageHeader) and Thrift's compact protocol.
"""

from __future__ import annotations

import io
import os
import zlib
from dataclasses import dataclass
from pathlib import Path

import duckdb

from apex_ml.adapters.duck import errors_name, one_row
from apex_ml.adapters.store import open_file
from apex_ml.contract.masks import literal
from apex_ml.errors import DataError

_STOP, _TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(13)
_DEEPEST = 8  # statistics lie two structs deep; more is no page header
_USUAL_HEADER, _LARGEST_HEADER = 512, 2**20
_USUAL_PAGE = 2**26  # below it a wrong size does no harm: unpacking fails
_UNCOMPRESSED_SIZE, _COMPRESSED_SIZE, _CRC = 2, 3, 4


@dataclass
class _Reader:
    """Walks over values of Thrift's compact protocol. Raises IndexError or ValueError on what is none."""

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
        """Read a struct; returns its fields that are whole numbers, by their ids."""
        if depth > _DEEPEST:
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
    """Refuse a file whose pages are not what their headers say; returns its number of rows.

    Raises :class:`~apex_ml.errors.DataError` naming file, column and row group when a checksum does not match, a page
    claims to be larger than its column, or the counts of rows contradict each other. A header that cannot be read is
    left to the reader, which knows more forms of it. The footer is read by DuckDB: PyArrow's description of a column
    ends the process when it is damaged.
    """
    file_sql = literal(str(path))
    with errors_name(path.name):
        (told,) = one_row(con, f"SELECT num_rows FROM parquet_file_metadata({file_sql})")
        found = con.execute(
            "SELECT row_group_num_rows, path_in_schema, row_group_id, data_page_offset, dictionary_page_offset,"
            f" total_compressed_size, total_uncompressed_size FROM parquet_metadata({file_sql})"
        ).fetchall()
    groups = {(group, rows) for rows, _, group, *_ in found}
    if told != sum(rows for _, rows in groups):
        raise DataError(f"{path.name}: a damaged parquet file: its row groups do not add up to {told} rows")
    with open_file(path) as file:
        size = file.seek(0, os.SEEK_END)
        # a group without rows may have no pages
        for chunk in (_Chunk(*values) for rows, *values in found if rows > 0):
            if fault := _fault(file, size, chunk):
                where = f"column {chunk.column}, row group {chunk.group}"
                raise DataError(f"{path.name}: damaged in {where}: {fault}; deliver it again")
    return int(told)


def _fault(file: io.BufferedReader, size: int, chunk: _Chunk) -> str | None:
    at = min(chunk.data_page_offset, chunk.dictionary_page_offset or chunk.data_page_offset)
    end = at + chunk.packed
    if not 4 <= at <= end <= size:
        return "it lies outside of the file"
    while at < end:
        found = _header(file, at)
        if found is None:
            return None
        header, body = found
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
    """The numbers in the header of the page at a place, and where its body begins; None when it is no header."""
    for length in (_USUAL_HEADER, _LARGEST_HEADER):  # statistics in it may hold long texts
        file.seek(at)
        reader = _Reader(file.read(length), 0)
        try:
            return reader.struct(), at + reader.at
        except IndexError:
            continue
        except ValueError:
            return None
    return None
