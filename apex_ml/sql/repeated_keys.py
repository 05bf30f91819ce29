"""Accepted rows that have the same key: DuckDB SQL."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from apex_ml.contract.model import Contract
from apex_ml.sql.parquet import copy_to_parquet, scan_parquet_files
from apex_ml.sql.quote import identifier, identifiers
from apex_ml.sql.session import create_temp_table

LATEST = "latest_rows"
COUNT_LATEST = f"SELECT count(*) FROM {LATEST}"


def select_repeated_keys(contract: Contract, files: Sequence[Path], limit: int) -> str:
    """Keys of rows that differ, each as text with its number of rows, and the number of all such keys."""
    key = identifiers(contract.named("key"))
    text = ", ".join(f"CAST({identifier(name)} AS VARCHAR)" for name in contract.named("key"))
    rows = scan_parquet_files(files)
    # few keys are repeated: only their rows are compared as a whole
    several = f"(SELECT {key} FROM {rows} GROUP BY {key} HAVING count(*) > 1)"
    return (
        f"SELECT concat_ws(' / ', {text}), count(*) AS n, count(*) OVER ()"
        f" FROM {rows} SEMI JOIN {several} USING ({key})"
        f" GROUP BY {key} HAVING count(DISTINCT hash({identifiers(contract.columns)})) > 1"
        f" ORDER BY n DESC, 1 LIMIT {limit:d}"
    )


def create_latest_table(contract: Contract, files: Sequence[Path]) -> str:
    """Keep the place of the latest row of each key in the table LATEST."""
    newest_first = [f"{identifier(name)} DESC" for name in contract.named("timestamp")]
    newest_first += ["file_index DESC", "file_row_number DESC"]
    number = f"row_number() OVER (PARTITION BY {identifiers(contract.named('key'))} ORDER BY {', '.join(newest_first)})"
    rows = scan_parquet_files(files, row_numbers=True)
    return create_temp_table(
        LATEST, f"SELECT file_index AS file, file_row_number AS row FROM {rows} QUALIFY {number} = 1"
    )


def copy_latest(contract: Contract, file: Path, number: int, to: Path) -> str:
    """Write the rows of a file, by its number among the files, that are the latest of their key."""
    rows = scan_parquet_files([file], row_numbers=True)
    latest = f"(SELECT row AS file_row_number FROM {LATEST} WHERE file = {number:d})"
    query = f"SELECT {identifiers(contract.columns)} FROM {rows} SEMI JOIN {latest} USING (file_row_number)"
    return copy_to_parquet(query, to)
