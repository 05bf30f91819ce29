"""The rows of the holdout with the inputs of another model's features: DuckDB SQL."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from apex_ml.contract.model import Contract
from apex_ml.contract.names import ROW_NR
from apex_ml.sql.features import select_examples
from apex_ml.sql.parquet import scan_parquet_files
from apex_ml.sql.plain_examples import select_plain_examples
from apex_ml.sql.quote import identifier, identifiers
from apex_ml.sql.rows import ROWS, select_with_state
from apex_ml.sql.session import replace_temp_table

HOLDOUT = "holdout"
"""Table of the rows of the holdout, with their places in its file."""


def create_holdout_table(contract: Contract, file: Path, present: Sequence[str], absent: Sequence[str]) -> str:
    """Keep the rows of a file of examples in the table HOLDOUT, with attributes that it has and that it lacks.

    An attribute that the file lacks is that of the row itself. Where an entity has several rows on the day it is
    unknown which of them the row is: such rows are left out.
    """
    columns = ", ".join(f"h.{identifier(name)}" for name in (contract.entity, contract.timestamp, *present))
    rows = f"(SELECT file_row_number AS {ROW_NR}, * FROM {scan_parquet_files([file], row_numbers=True)})"
    if not absent:
        return replace_temp_table(HOLDOUT, f"SELECT h.{ROW_NR}, {columns} FROM {rows} AS h")
    values = ", ".join(f"any_value({identifier(name)}) AS {identifier(name)}" for name in absent)
    names = [contract.entity] + ([contract.timestamp] if contract.has_timestamp else [])
    key = identifiers(names)
    rows_again = (
        select_examples(contract, ROWS) if contract.has_history else select_plain_examples(contract, f"FROM {ROWS}")
    )
    examples = f"SELECT {key}, {values} FROM ({rows_again}) GROUP BY {key} HAVING count(*) = 1"
    added = ", ".join(f"e.{identifier(name)}" for name in absent)
    return replace_temp_table(
        HOLDOUT,
        f"SELECT h.{ROW_NR}, {columns}, {added} FROM {rows} AS h JOIN ({examples}) AS e USING ({key})",
    )


def select_holdout(contract: Contract, attributes: Sequence[str]) -> str:
    """The rows of HOLDOUT with the state of their history under a contract, in the order of their file."""
    if not contract.has_history:
        return f"FROM {HOLDOUT} ORDER BY {ROW_NR}"
    state = select_with_state(contract, HOLDOUT, ROWS)
    names = [ROW_NR, contract.entity, contract.timestamp, *attributes]
    return f"SELECT {identifiers(names)}, * EXCLUDE ({identifiers(names)}) FROM ({state}) ORDER BY {ROW_NR}"
