"""Lines of CSV and JSON files that cannot be parsed, among the quarantined rows: DuckDB SQL."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from apex_ml.contract.names import ROW_NR
from apex_ml.sql.parquet import copy_to_parquet, scan_parquet


def copy_bad_lines(files: Iterable[Path], to: Path) -> str:
    """Write the quarantined rows of several files to one file, in the order of their lines."""
    columns = f"{ROW_NR}, CAST(reasons AS JSON) AS reasons, CAST(row AS JSON) AS row"
    rows = " UNION ALL ".join(f"SELECT {columns} FROM {scan_parquet(file)}" for file in files)
    return copy_to_parquet(f"SELECT * FROM ({rows}) ORDER BY {ROW_NR}", to)
