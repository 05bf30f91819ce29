"""The rows of a drop beside the history that a model's features need: DuckDB SQL."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path

from apex_ml.contract.history_state import StateColumn
from apex_ml.contract.model import Contract
from apex_ml.contract.names import SINCE, WINDOW_DAYS, snapshot_by
from apex_ml.sql.parquet import scan_parquet
from apex_ml.sql.quote import identifier, identifiers, literal
from apex_ml.sql.row_time import time_before
from apex_ml.sql.rows import ROWS, select_with_state
from apex_ml.sql.session import replace_temp_table

EARLY = "early"
"""Table of the drop's rows dated before the snapshot."""


def select_named(names: Iterable[str], accepted: str) -> str:
    """Columns of the drop's rows, which are given as SQL."""
    return f"SELECT {identifiers(names)} FROM ({accepted})"


def create_early_table(contract: Contract, query: str, since: date) -> str:
    """Keep the rows before a day or an instant in the table EARLY."""
    return replace_temp_table(
        EARLY, f"SELECT * FROM ({query}) WHERE {identifier(contract.timestamp)} < {literal(since)}"
    )


def not_early(contract: Contract, query: str, since: date) -> str:
    """The rows that are not before a day or an instant, as a relation."""
    return f"(SELECT * FROM ({query}) WHERE {identifier(contract.timestamp)} >= {literal(since)})"


def join_snapshot(
    contract: Contract, asked: str, snapshot: Path, states: Iterable[StateColumn], has_since: bool
) -> str:
    """The rows of a relation beside states of their history in the snapshots, null for one that these lack.

    Where the snapshots have the column SINCE, each row takes the latest state that holds on its day.
    """
    columns = list(states)
    join, since = ("ASOF LEFT JOIN", " AND a.{} >= s{}." + SINCE) if has_since else ("LEFT JOIN", "")
    select, query = "SELECT a.*", f"FROM {asked} AS a"
    for nr, by in enumerate(dict.fromkeys(column.scope.by for column in columns)):
        own = [column for column in columns if column.scope.by == by]
        select += "".join(f", {_snapshot_value(contract, column, f's{nr}')}" for column in own)
        same = " AND ".join(f"s{nr}.{key} = a.{key}" for key in map(identifier, by or (contract.entity,)))
        query += f" {join} {scan_parquet(snapshot_by(snapshot, by))} AS s{nr} ON {same}"
        query += since.format(identifier(contract.timestamp), nr)
    return f"{select} {query}"


def _snapshot_value(contract: Contract, column: StateColumn, source: str) -> str:
    name = f"{source}.{identifier(column.name)}"
    if column.scope.window is None:
        return name
    length = contract.history_lag + column.scope.window * contract.times_a_day
    before = time_before(contract, f"a.{identifier(contract.timestamp)}", length)
    # the first day of the window's rows; behind the last one there is no value
    days_ago = f"len(list_filter({source}.{WINDOW_DAYS}, lambda day: day < {before}))"
    return f"{name}[{days_ago} + 1] AS {identifier(column.name)}"


def add_early(contract: Contract, query: str, columns: Sequence[str]) -> str:
    """The rows of a query, then those of EARLY with the state that they had on their own dates."""
    state = select_with_state(contract, EARLY, ROWS)
    return f"{query} UNION ALL SELECT {identifiers(columns)} FROM ({state})"
