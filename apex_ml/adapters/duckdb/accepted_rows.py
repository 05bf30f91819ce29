"""The accepted orders of a run: a relation in DuckDB in which every row has a position, and rows taken by position."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from apex_ml.contract.model import Contract
from apex_ml.contract.names import POSITION
from apex_ml.core.history import settle_ties, whole_entities
from apex_ml.sql.history import alike_sql, compact_sql, sorted_sql
from apex_ml.sql.quote import identifier, identifiers, literal

PLACED = "placed_orders"
"""View of the accepted rows, repeated ones too, with their positions."""
FILE = "history_file"
"""Column of that view: the number of the row's file."""
COMPACT = "compact_orders"
RANGE_ROWS = 2_500_000
"""About so many rows are sorted at once: a few hundred MB."""
BATCH_ROWS = 32_768


def accepted_files(folder: Path) -> list[Path]:
    """The files of accepted rows, in the order that positions count them."""
    return sorted(folder.glob("*.parquet"))


def delivered_once_sql(contract: Contract, files: Sequence[Path], where: str = "true") -> str:
    """SQL of the accepted rows that fulfil a condition, without those that came twice.

    A row that stands in several files is taken as often as it stands in that one of them that has it most often: what
    another file has of it is a second delivery, while equal rows of one file are orders of their own.
    """
    columns = identifiers(contract.columns)
    source = f"read_parquet([{', '.join(literal(str(file)) for file in files)}], file_row_number = true)"
    counted = f"SELECT {columns}, count(*) AS history_times FROM {source} WHERE {where} GROUP BY {columns}, file_index"
    most = f"SELECT {columns}, max(history_times) AS history_times FROM ({counted}) GROUP BY {columns}"
    return f"SELECT {columns} FROM (SELECT *, unnest(range(history_times)) FROM ({most}))"


class SortedOrders:
    """The accepted rows by entity and day, without those that came twice, with what their history needs.

    `rows` counts them all; `repeated` those left out, as a second file delivers them again, known when :meth:`tables`
    has ended. Rows are copied to DuckDB in a compact form and sorted one range of entities at a time, so that
    time grows with the rows and a sort fits in memory. The result does not depend on the ranges.
    """

    def __init__(
        self, con: duckdb.DuckDBPyConnection, contract: Contract, files: Sequence[Path], range_rows: int = RANGE_ROWS
    ) -> None:
        self.contract, self.files, self.repeated = contract, files, 0
        self._con = con
        names = ", ".join(literal(str(f)) for f in files)
        columns = identifiers(contract.columns)
        starts = np.cumsum([0, *(pq.read_metadata(f).num_rows for f in files)]).tolist()
        self.rows: int = starts[-1]
        con.execute(
            f"CREATE VIEW {PLACED} AS SELECT {columns},"
            f" {starts}[CAST(file_index AS BIGINT) + 1] + file_row_number AS {POSITION}, file_index AS {FILE}"
            f" FROM read_parquet([{names}], file_row_number = true)"
        )
        # a table of its own: DuckDB sorts plain values faster than the dictionaries of parquet
        con.execute(f"CREATE TABLE {COMPACT} AS {compact_sql(contract, PLACED)}")
        self._cuts = self._quantiles(-(-self.rows // range_rows))

    def _quantiles(self, ranges: int) -> list[str]:
        """Entities that cut the rows into about equal ranges."""
        if ranges < 2:
            return []
        entity = identifier(self.contract.entity)
        sample = f"SELECT {entity} FROM {COMPACT} USING SAMPLE 2 PERCENT (system, 42)"
        drawn = [name for (name,) in self._con.execute(f"SELECT {entity} FROM ({sample}) ORDER BY 1").fetchall()]
        return list(dict.fromkeys(drawn[len(drawn) * i // ranges] for i in range(1, ranges) if drawn))

    def tables(self) -> Iterator[pa.Table]:
        """The rows, once, in tables that hold whole entities."""
        entity = identifier(self.contract.entity)
        for low, high in pairwise([None, *self._cuts, None]):
            sides = ((">=", low), ("<", high))
            bounds = [f"{entity} {sign} {literal(name)}" for sign, name in sides if name is not None]
            within = f"(SELECT * FROM {COMPACT} WHERE {' AND '.join(bounds)})" if bounds else COMPACT
            repeated: pa.Array | None = None
            reader = self._con.sql(sorted_sql(self.contract, within)).to_arrow_reader(BATCH_ROWS)
            for table in whole_entities(reader, self.contract.entity):
                table, alike = settle_ties(self.contract, table)
                if alike:
                    repeated = self._repeated(within) if repeated is None else repeated
                    table = table.filter(pc.invert(pc.is_in(table.column(POSITION), value_set=repeated)))
                yield table
            self.repeated += len(repeated) if repeated is not None else 0
        self._con.execute(f"DROP TABLE {COMPACT}")

    def _repeated(self, within: str) -> pa.Array:
        """Positions of the rows that a second file delivers again.

        The n-th of the equal rows of a file repeats the n-th of another file, so that each row is taken as often as it
        stands in the file that has it most often. Repeated rows are equal in what their history needs, then compared as
        a whole.
        """
        columns = identifiers(self.contract.columns)
        with self._con.cursor() as con:  # beside the rows that are being read
            con.execute("SET enable_progress_bar = false")
            con.execute(f"CREATE TEMP TABLE alike_orders AS {alike_sql(self.contract, within)}")
            within_file = f"row_number() OVER (PARTITION BY {columns}, {FILE} ORDER BY {POSITION}) AS history_nth"
            found = con.sql(
                f"SELECT {POSITION}"
                f" FROM (SELECT *, {within_file} FROM {PLACED} SEMI JOIN alike_orders USING ({POSITION}))"
                f" QUALIFY row_number() OVER (PARTITION BY {columns}, history_nth ORDER BY {POSITION}) > 1"
            ).to_arrow_table()
        return found.column(POSITION).combine_chunks()


class CodedColumns:
    """Columns of all orders in memory, strings as codes of one to four bytes, to take rows by position from.

    Levels are kept once, so that a row costs a few bytes. The files are read one at a time.
    """

    def __init__(self, contract: Contract, files: Sequence[Path], columns: Sequence[str]) -> None:
        strings = [name for name in columns if contract.columns[name].type == "string"]
        self._levels = {name: pa.nulls(1, pa.string()) for name in strings}
        self._values: dict[str, np.ndarray | pa.ChunkedArray] = {}
        codes: dict[str, list[np.ndarray]] = {name: [] for name in strings}
        chunks: dict[str, list[pa.Array]] = {name: [] for name in columns if name not in strings}
        for file in files:
            with pq.ParquetFile(file, read_dictionary=strings) as opened:
                table = opened.read(list(columns))
            for name in strings:
                self._levels[name], coded = _coded(table.column(name).chunks, self._levels[name])
                codes[name] += coded
            for name, found in chunks.items():
                found += table.column(name).chunks
        for name, parts in codes.items():
            self._values[name] = np.concatenate([np.empty(0, np.uint8), *parts])
        for name, found in chunks.items():
            self._values[name] = pa.chunked_array(found, contract.columns[name].arrow_type)

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


def _coded(chunks: list[pa.DictionaryArray], levels: pa.Array) -> tuple[pa.Array, list[np.ndarray]]:
    """The levels with those that are new, and the code of every row: its level's place. Null stands first."""
    new = pc.unique(pa.chunked_array([chunk.dictionary for chunk in chunks], pa.string()))
    levels = pa.concat_arrays([levels, new.filter(pc.invert(pc.is_in(new, value_set=levels)))])
    codes = []
    for chunk in chunks:
        places = pc.index_in(chunk.dictionary, value_set=levels).to_numpy(zero_copy_only=False)
        # the code of null stands last, where index -1 finds it
        table = np.append(places, 0).astype(_code_type(len(levels)))
        codes.append(table[pc.fill_null(chunk.indices, -1).to_numpy()])
    return levels, codes
