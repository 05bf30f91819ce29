"""The rows of the holdout with the inputs of another model's features: DuckDB SQL."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from apex_ml.contract.model import Contract
from apex_ml.contract.names import ROW_NR
from apex_ml.sql.features import select_examples, select_state
from apex_ml.sql.parquet import scan_parquet_files
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
    entity, when = identifier(contract.entity), identifier(contract.timestamp)
    key = f"{entity}, {when}"
    columns = ", ".join([f"h.{entity}", f"h.{when}", *(f"h.{identifier(name)}" for name in present)])
    rows = f"(SELECT file_row_number AS {ROW_NR}, * FROM {scan_parquet_files([file], row_numbers=True)})"
    if not absent:
        return replace_temp_table(HOLDOUT, f"SELECT h.{ROW_NR}, {columns} FROM {rows} AS h")
    values = ", ".join(f"any_value({identifier(name)}) AS {identifier(name)}" for name in absent)
    examples = f"SELECT {key}, {values} FROM ({select_examples(contract, ROWS)}) GROUP BY {key} HAVING count(*) = 1"
    added = ", ".join(f"e.{identifier(name)}" for name in absent)
    return replace_temp_table(
        HOLDOUT,
        f"SELECT h.{ROW_NR}, {columns}, {added} FROM {rows} AS h JOIN ({examples}) AS e"
        f" ON e.{entity} = h.{entity} AND e.{when} = h.{when}",
    )


def select_holdout(contract: Contract, attributes: Sequence[str]) -> str:
    """The rows of HOLDOUT with the state of their history under a contract, in the order of their file."""
    state = select_with_state(contract, HOLDOUT, select_state(contract, HOLDOUT, ROWS))
    names = [ROW_NR, contract.entity, contract.timestamp, *attributes]
    return f"SELECT {identifiers(names)}, * EXCLUDE ({identifiers(names)}) FROM ({state}) ORDER BY {ROW_NR}"
