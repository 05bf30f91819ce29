"""The accepted rows that are held back from training: DuckDB SQL."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path

from apex_ml.contract.model import Contract
from apex_ml.sql.accepted_rows import select_delivered_once
from apex_ml.sql.parquet import copy_to_parquet, scan_parquet, scan_parquet_files
from apex_ml.sql.plain_examples import content_hash
from apex_ml.sql.quote import identifiers, literal
from apex_ml.sql.row_time import day_sql

HELD_PART = 20
"""Of rows without dates one in HELD_PART is held back."""


def is_held(contract: Contract, newest: date | None) -> str:
    """A condition: the row is dated on the newest day, or without dates it is one of a random part."""
    if newest is None:
        return f"{content_hash(contract, tuple(contract.columns))} % {HELD_PART} = 0"
    return f"CAST({day_sql(contract)} AS DATE) >= {literal(newest)}"


def count_held(files: Iterable[Path], held: str) -> str:
    """Count the rows that are held back, and the others."""
    return f"SELECT count(*) FILTER ({held}), count(*) FILTER (NOT {held}) FROM {scan_parquet_files(files)}"


def select_held(contract: Contract, files: Sequence[Path], columns: Iterable[str], held: str) -> str:
    """Columns of the rows that are held back, in an order that depends on their values alone."""
    return f"SELECT {identifiers(columns)} FROM ({select_delivered_once(contract, files, held)}) ORDER BY ALL"


def count_held_in(file: Path, held: str) -> str:
    """Count the rows of one file that are held back."""
    return f"SELECT count(*) FROM {scan_parquet(file)} WHERE {held}"


def copy_others(file: Path, held: str, to: Path) -> str:
    """Write the rows of a file that are not held back to another file."""
    return copy_to_parquet(f"SELECT * FROM {scan_parquet(file)} WHERE NOT {held}", to)
