"""A sample of accepted rows, drawn by a hash of some columns: DuckDB SQL."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from apex_ml.sql.parquet import copy_to_parquet, scan_parquet, scan_parquet_files
from apex_ml.sql.quote import identifiers


def _number(columns: Iterable[str], seed: int) -> str:
    """The number by which rows are drawn: rows with the same values in the columns have the same one."""
    return f"hash({identifiers(columns)}, {seed:d})"


def select_cut(files: Iterable[Path], columns: Iterable[str], seed: int, limit: int) -> str:
    """The largest number of a sample of at most `limit` rows, its rows, and its different numbers."""
    return (
        "SELECT max(number), max(total), count(*) FROM (SELECT number, sum(n) OVER (ORDER BY number) AS total"
        f" FROM (SELECT {_number(columns, seed)} AS number, count(*) AS n FROM {scan_parquet_files(files)}"
        f" GROUP BY number)) WHERE total <= {limit:d}"
    )


def copy_sample(file: Path, columns: Iterable[str], seed: int, cut: int, to: Path) -> str:
    """Write the rows of a file up to a number of the sample to another file."""
    return copy_to_parquet(f"SELECT * FROM {scan_parquet(file)} WHERE {_number(columns, seed)} <= {cut:d}", to)
