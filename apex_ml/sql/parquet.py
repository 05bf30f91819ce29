"""Read, describe and write parquet files: DuckDB SQL."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from apex_ml.sql.quote import literal


def scan_parquet(path: Path) -> str:
    """The rows of a file, or of all files that a pattern names."""
    return f"read_parquet({literal(str(path))})"


def scan_parquet_files(files: Iterable[Path], *, row_numbers: bool = False) -> str:
    """The rows of several files. With `row_numbers` each has its `file_row_number` beside its `file_index`."""
    names = ", ".join(literal(str(file)) for file in files)
    return f"read_parquet([{names}]{', file_row_number = true' if row_numbers else ''})"


def place_name(place: int) -> str:
    """The name of a file's column by its place, from 0: the file's own names may appear twice or differ only in case.

    >>> place_name(3)
    'c3'
    """
    return f"c{place}"


def place_names(columns: int) -> str:
    """The names of a file's columns by their places, joined with commas."""
    return ", ".join(map(place_name, range(columns)))


def scan_by_place(path: Path, columns: int) -> str:
    """The rows of a file as the relation `file`, its columns named by :func:`place_name`."""
    return f"read_parquet({literal(str(path))}, hive_partitioning = false) AS file({place_names(columns)})"


def describe_types(path: Path, columns: int) -> str:
    """The types of a file's columns as DuckDB reads them: one row per column, with the type second."""
    return f"DESCRIBE SELECT {place_names(columns)} FROM {scan_by_place(path, columns)}"


def hash_values(path: Path, columns: int, place: int) -> str:
    """Decode every value of a column and show it as text. One number; fails at a value that DuckDB cannot decode."""
    return f"SELECT bit_xor(hash(CAST({place_name(place)} AS VARCHAR))) FROM {scan_by_place(path, columns)}"


def select_column_chunks(path: Path) -> str:
    """Rows of the row group, column, row group, offsets and sizes of each column of each row group."""
    return (
        "SELECT row_group_num_rows, path_in_schema, row_group_id, data_page_offset, dictionary_page_offset,"
        f" total_compressed_size, total_uncompressed_size FROM parquet_metadata({literal(str(path))})"
    )


def select_rows_and_encryption(path: Path) -> str:
    """The number of rows and the encryption algorithm (null: none) by the footer of a file."""
    return f"SELECT num_rows, encryption_algorithm FROM parquet_file_metadata({literal(str(path))})"


def copy_to_parquet(query: str, path: Path, level: int | None = None) -> str:
    """Write the rows of a query to a file, with a zstd compression level or the default one."""
    how = "FORMAT parquet, COMPRESSION zstd" + ("" if level is None else f", COMPRESSION_LEVEL {level:d}")
    return f"COPY ({query}) TO {literal(str(path))} ({how})"


def select_file(path: Path) -> str:
    """All rows of a file."""
    return f"SELECT * FROM {scan_parquet(path)}"
