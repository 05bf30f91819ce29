"""A sample of accepted rows, drawn by a hash of some columns: DuckDB SQL."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from apex_ml.sql.parquet import copy_to_parquet, scan_parquet, scan_parquet_files
from apex_ml.sql.quote import identifiers


def _number(columns: Iterable[str], seed: int) -> str:
    """The number by which rows are drawn: rows with the same values in the columns have the same one."""
    return f"hash({identifiers(columns)}, {seed:d})"


def select_cut(files: Iterable[Path], columns: Iterable[str], seed: int, max_rows: int, max_groups: int) -> str:
    """The largest number of a sample, its rows, and its groups of rows with the same values in the columns."""
    return (
        "SELECT max(number), max(total), max(place) FROM (SELECT number, sum(n) OVER in_turn AS total,"
        f" row_number() OVER in_turn AS place FROM (SELECT {_number(columns, seed)} AS number, count(*) AS n"
        f" FROM {scan_parquet_files(files)} GROUP BY number) WINDOW in_turn AS (ORDER BY number))"
        f" WHERE total <= {max_rows:d} AND place <= {max_groups:d}"
    )


def copy_sample(file: Path, columns: Iterable[str], seed: int, cut: int, to: Path) -> str:
    """Write the rows of a file up to a number of the sample to another file."""
    return copy_to_parquet(f"SELECT * FROM {scan_parquet(file)} WHERE {_number(columns, seed)} <= {cut:d}", to)
