"""The accepted rows of the newest day, held back from training: DuckDB SQL."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path

from apex_ml.contract.model import Contract
from apex_ml.sql.accepted_rows import select_delivered_once
from apex_ml.sql.parquet import copy_to_parquet, scan_parquet, scan_parquet_files
from apex_ml.sql.quote import identifier, identifiers, literal


def is_held(contract: Contract, newest: date) -> str:
    """A condition: the row is dated on the newest day."""
    return f"CAST({identifier(contract.timestamp)} AS DATE) >= {literal(newest)}"


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
