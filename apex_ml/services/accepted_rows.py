"""The accepted rows of a run as a DuckDB relation, without repeated deliveries."""

from __future__ import annotations

from pathlib import Path

import duckdb

from apex_ml.adapters.duckdb import engine
from apex_ml.adapters.duckdb.accepted_rows import accepted_files
from apex_ml.contract.model import Contract
from apex_ml.sql.accepted_rows import count_repeats
from apex_ml.sql.parquet import scan_parquet
from apex_ml.sql.rows import ROWS, create_rows_table, create_rows_view
from apex_ml.sql.session import count_rows


def load_rows(con: duckdb.DuckDBPyConnection, contract: Contract, accepted: Path) -> tuple[int, int]:
    """Create the relation ROWS of the accepted files without repeated deliveries. Returns (rows, left out)."""
    source = scan_parquet(accepted / "*.parquet")
    rows, repeated = engine.one_row(con, count_repeats(contract, source))
    if repeated:
        # the rows themselves are compared: two rows that merely share a hash both stay
        con.execute(create_rows_table(contract, accepted_files(accepted)))
        (kept,) = engine.one_row(con, count_rows(ROWS))
        repeated = rows - kept
    else:
        con.execute(create_rows_view(contract, source))
    return rows, repeated
