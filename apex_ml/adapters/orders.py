"""The accepted orders of a run: a relation in DuckDB in which every row has a position, and rows taken by position."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from apex_ml.adapters.duck import one_row
from apex_ml.contract.masks import literal, quoted
from apex_ml.contract.model import Contract
from apex_ml.core.history import POSITION, alike_sql, compact_sql, sorted_sql

PLACED = "placed_orders"
"""View of the accepted rows, repeated ones too, with their positions."""
SORTED = "sorted_orders"
"""Table of the rows by entity and day, each once, with what their history needs."""


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
    starts = np.cumsum([0, *(pq.read_metadata(f).num_rows for f in files)]).tolist()
    con.execute(
        f"CREATE TEMP VIEW {PLACED} AS SELECT {columns},"
        f" {starts}[CAST(file_index AS BIGINT) + 1] + file_row_number AS {POSITION}"
        f" FROM read_parquet([{names}], file_row_number = true)"
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
        f"CREATE TEMP TABLE repeated_orders AS SELECT {POSITION} FROM {PLACED}"
        f" SEMI JOIN alike_orders USING ({POSITION})"
        f" QUALIFY row_number() OVER (PARTITION BY {columns} ORDER BY {POSITION}) > 1"
    )
    (repeated,) = one_row(con, "SELECT count(*) FROM repeated_orders")
    con.execute(f"DELETE FROM {SORTED} WHERE {POSITION} IN (SELECT {POSITION} FROM repeated_orders)")
    return rows, repeated


class CodedColumns:
    """Columns of all orders in memory, strings as codes of one to four bytes, to take rows by position from.

    Levels are kept once, so that a row costs a few bytes. The files are read one at a time.
    """

    def __init__(self, contract: Contract, files: Sequence[Path], columns: Sequence[str]) -> None:
        self._contract = contract
        self._levels: dict[str, pa.Array] = {}
        self._values: dict[str, np.ndarray | pa.ChunkedArray] = {}
        strings = [name for name in columns if contract.columns[name].type == "string"]
        parts: dict[str, list[pa.ChunkedArray]] = {name: [] for name in columns}
        for file in files:
            with pq.ParquetFile(file, read_dictionary=strings) as opened:
                table = opened.read(list(columns))
            for name in columns:
                parts[name].append(table.column(name))
        for name, found in parts.items():
            chunks = [chunk for part in found for chunk in part.chunks]
            if name in strings:
                self._levels[name], self._values[name] = _unified(chunks)
            else:
                self._values[name] = pa.chunked_array(chunks, contract.columns[name].arrow_type)

    def take(self, positions: np.ndarray) -> pa.Table:
        """The rows at the positions, in their order, with the contract's types."""
        taken = {}
        for name, values in self._values.items():
            if isinstance(values, np.ndarray):
                codes = values[positions]
                taken[name] = self._levels[name].take(pa.array(codes))
            else:
                taken[name] = values.take(pa.array(positions))
        return pa.table(taken)


def _code_type(levels: int) -> type[np.unsignedinteger[Any]]:
    return np.uint8 if levels <= 2**8 else np.uint16 if levels <= 2**16 else np.uint32


def _unified(chunks: list[pa.DictionaryArray]) -> tuple[pa.Array, np.ndarray]:
    """One list of levels, null first, and the code of every row."""
    levels = pc.unique(pa.chunked_array([chunk.dictionary for chunk in chunks], pa.string())).drop_null()
    kind = _code_type(len(levels) + 1)
    codes = []
    for chunk in chunks:
        places = pc.index_in(chunk.dictionary, value_set=levels).to_numpy(zero_copy_only=False) + 1
        # the code of null stands last, where index -1 finds it
        table = np.append(places, 0).astype(kind)
        codes.append(table[pc.fill_null(chunk.indices, -1).to_numpy()])
    return pa.concat_arrays([pa.nulls(1, pa.string()), levels]), np.concatenate(codes)
