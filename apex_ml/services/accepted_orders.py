"""The accepted rows of a run as a DuckDB relation, each delivered row once."""

from __future__ import annotations

from pathlib import Path

import duckdb

from apex_ml.adapters.duckdb import engine
from apex_ml.adapters.duckdb.accepted_rows import (
    accepted_files,
    delivered_once_sql,
)
from apex_ml.contract.history_state import state_columns
from apex_ml.contract.model import Contract
from apex_ml.sql.quote import identifier, identifiers, literal


def load_orders(con: duckdb.DuckDBPyConnection, contract: Contract, accepted: Path) -> tuple[int, int]:
    """Make the relation `orders` of the accepted files without the rows that came twice. Returns (rows, left out)."""
    columns = identifiers(contract.columns)
    source = f"read_parquet({literal(str(accepted / '*.parquet'))})"
    rows, repeated = engine.one_row(con, f"SELECT count(*), count(*) - count(DISTINCT hash({columns})) FROM {source}")
    if repeated:
        # the rows themselves are compared: two rows that merely share a hash both stay
        con.execute(f"CREATE TEMP TABLE orders AS {delivered_once_sql(contract, accepted_files(accepted))}")
        (kept,) = engine.one_row(con, "SELECT count(*) FROM orders")
        repeated = rows - kept
    else:
        con.execute(f"CREATE TEMP VIEW orders AS SELECT {columns} FROM {source}")
    return rows, repeated


def with_state_sql(contract: Contract, asked: str, state: str) -> str:
    """SQL: the columns of `asked` beside the state of each row's (entity, timestamp)."""
    entity, when = identifier(contract.entity), identifier(contract.timestamp)
    names = ", ".join(f"s.{identifier(name)}" for name, _, _ in state_columns(contract))
    return (
        f"SELECT a.*, {names} FROM {asked} AS a JOIN ({state}) AS s ON s.{entity} = a.{entity} AND s.{when} = a.{when}"
    )
