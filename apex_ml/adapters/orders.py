"""The accepted orders of a run: a relation in DuckDB in which every row has a position, and rows taken by position."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from apex_ml.adapters.duck import one_row
from apex_ml.contract.masks import literal, quoted
from apex_ml.contract.model import Contract
from apex_ml.core.history import POSITION, alike_sql, compact_sql, sorted_sql

PLACED = "placed_orders"
"""View of the accepted rows, repeated ones too, with their positions."""
SORTED = "sorted_orders"
"""Table of the rows by entity and day, each once, with what their history needs."""
_FILE = 2**40  # rows that a file may have before positions of two files meet


def accepted_files(folder: Path) -> list[Path]:
    """The files of accepted rows, in the order that positions count them."""
    return sorted(folder.glob("*.parquet"))


def sort_orders(con: duckdb.DuckDBPyConnection, contract: Contract, files: Sequence[Path]) -> tuple[int, int]:
    """Make the view `PLACED` and the table `SORTED`. Returns (rows, repeated rows).

    Repeated rows are looked for among the neighbours that are equal in what their history needs, then compared as a
    whole; the one with the lowest position stays.
    """
    names = ", ".join(literal(str(f)) for f in files)
    columns = ", ".join(map(quoted, contract.columns))
    con.execute(
        f"CREATE TEMP VIEW {PLACED} AS SELECT {columns}, CAST(file_index AS BIGINT) * {_FILE} + file_row_number AS"
        f" {POSITION} FROM read_parquet([{names}], file_row_number = true)"
    )
    # two statements: DuckDB sorts a table of plain values faster than the dictionaries of parquet
    con.execute(f"CREATE TEMP TABLE compact_orders AS {compact_sql(contract, PLACED)}")
    con.execute(f"CREATE TABLE {SORTED} AS {sorted_sql(contract, 'compact_orders')}")
    con.execute("DROP TABLE compact_orders")
    (rows,) = one_row(con, f"SELECT count(*) FROM {SORTED}")
    con.execute(f"CREATE TEMP TABLE alike_orders AS {alike_sql(contract, SORTED)}")
    (alike,) = one_row(con, "SELECT count(*) FROM alike_orders")
    if not alike:
        return rows, 0
    con.execute(
        f"CREATE TEMP TABLE repeated_orders AS SELECT {POSITION} FROM {PLACED} SEMI JOIN alike_orders USING ({POSITION})"
        f" QUALIFY row_number() OVER (PARTITION BY {columns} ORDER BY {POSITION}) > 1"
    )
    (repeated,) = one_row(con, "SELECT count(*) FROM repeated_orders")
    con.execute(f"DELETE FROM {SORTED} WHERE {POSITION} IN (SELECT {POSITION} FROM repeated_orders)")
    return rows, repeated


def take_orders(files: Sequence[Path], contract: Contract, columns: Sequence[str], positions: np.ndarray) -> pa.Table:
    """Read the rows at the positions, in their order; strings come as dictionaries, which is many times faster.

    Only the columns asked for are read, one file at a time, and no more than the rows asked for is kept.
    """
    strings = [name for name in columns if contract.columns[name].type == "string"]
    order = np.argsort(positions, kind="stable")
    rising = positions[order]
    parts = []
    for number, file in enumerate(files):
        first, end = np.searchsorted(rising, [number * _FILE, (number + 1) * _FILE])
        if first < end:
            table = pq.read_table(file, columns=list(columns), read_dictionary=strings, partitioning=None)
            parts.append(table.take(pa.array(rising[first:end] - number * _FILE)))
    if not parts:
        return pa.schema([contract.arrow_schema().field(name) for name in columns]).empty_table()
    back = np.empty(len(order), np.int64)
    back[order] = np.arange(len(order))
    return pa.concat_tables(parts).unify_dictionaries().combine_chunks().take(pa.array(back))
