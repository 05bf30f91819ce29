"""The accepted rows of a run: sorted by entity and day, and columns to take rows by position from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from apex_ml.contract.model import Contract
from apex_ml.contract.names import KEY, POSITION
from apex_ml.core.history import settle_ties, whole_entities
from apex_ml.sql import accepted_rows as sql
from apex_ml.sql.history import select_sorted
from apex_ml.sql.session import HIDE_PROGRESS_BAR

RANGE_ROWS = 2_500_000
"""The number of rows that are sorted at once, about: a few hundred MB."""
BATCH_ROWS = 32_768


def accepted_files(folder: Path) -> list[Path]:
    """The files of accepted rows, in the order in which positions count their rows."""
    return sorted(folder.glob("*.parquet"))


def rewrite_file(con: duckdb.DuckDBPyConnection, file: Path, copy: Callable[[Path], str]) -> None:
    """Replace a file of accepted rows, as a whole, by the one that a statement writes. `copy` makes it from a path."""
    part = file.with_name(f".{file.name}.part")
    con.execute(copy(part))
    part.replace(file)


class SortedRows:
    """The accepted rows by entity and day, without repeated deliveries, with the columns that their history needs.

    `rows` is the number of all rows. `repeated` is the number of rows left out because a second file delivers them
    again; it is known when :meth:`tables` has ended. Rows are copied to DuckDB in a compact form and sorted one range
    of entities at a time, so that time grows with the rows and a sort fits into memory. The result does not depend on
    the ranges.
    """

    def __init__(
        self, con: duckdb.DuckDBPyConnection, contract: Contract, files: Sequence[Path], range_rows: int = RANGE_ROWS
    ) -> None:
        self.contract, self.files, self.repeated = contract, files, 0
        self._con = con
        starts = np.cumsum([0, *(pq.read_metadata(f).num_rows for f in files)]).tolist()
        self.rows: int = starts[-1]
        con.execute(sql.create_placed_view(contract, files, starts))
        # a table: DuckDB sorts plain values faster than the dictionaries of parquet
        con.execute(sql.create_compact_table(contract))
        self._cuts = self._quantiles(-(-self.rows // range_rows))

    def _quantiles(self, ranges: int) -> list[str]:
        """Entities that divide the rows into ranges of about equal size."""
        if ranges < 2:
            return []
        drawn = [name for (name,) in self._con.execute(sql.sample_entities(self.contract)).fetchall()]
        return list(dict.fromkeys(drawn[len(drawn) * i // ranges] for i in range(1, ranges) if drawn))

    def tables(self) -> Iterator[pa.Table]:
        """The rows, once, in tables that hold whole entities."""
        for low, high in pairwise([None, *self._cuts, None]):
            within = sql.compact_range(self.contract, low, high)
            repeated: pa.Array | None = None
            reader = self._con.sql(select_sorted(self.contract, within)).to_arrow_reader(BATCH_ROWS)
            for table in whole_entities(reader, self.contract.entity):
                table, alike = settle_ties(self.contract, table)
                if alike:
                    repeated = self._repeated(within) if repeated is None else repeated
                    table = table.filter(pc.invert(pc.is_in(table.column(POSITION), value_set=repeated)))
                yield table
            self.repeated += len(repeated) if repeated is not None else 0
        self._con.execute(sql.DROP_COMPACT)

    def keys(self, by: tuple[str, ...]) -> pa.Table:
        """The values of the columns by which rows share a history, and their numbers, in ascending sequence."""
        self._con.execute(sql.create_keys_table(by))
        return self._con.table(sql.KEYS).to_arrow_table()

    def tables_by(self, by: tuple[str, ...]) -> Iterator[pa.Table]:
        """The rows with known values of the columns, once, in tables that hold all rows of a number.

        The numbers are those of :meth:`keys`, which was called before.
        """
        repeated = self._all_repeated
        reader = self._con.sql(sql.select_rows_by(self.contract, by)).to_arrow_reader(BATCH_ROWS)
        for table in whole_entities(reader, KEY):
            table = settle_ties(self.contract, table, KEY)[0]
            if len(repeated):
                table = table.filter(pc.invert(pc.is_in(table.column(POSITION), value_set=repeated)))
            yield table

    @cached_property
    def _all_repeated(self) -> pa.Array:
        ranges = pairwise([None, *self._cuts, None])
        return pa.concat_arrays([self._repeated(sql.compact_range(self.contract, *cut)) for cut in ranges])

    def _repeated(self, within: str) -> pa.Array:
        """Positions of the rows that a second file delivers again.

        The n-th of the equal rows of a file repeats the n-th of another file, so that each row is taken as often as in
        the file that has it most often. Rows that are equal in the compact columns are compared as a whole.
        """
        with self._con.cursor() as con:  # a second cursor, while the first still reads the rows
            con.execute(HIDE_PROGRESS_BAR)
            con.execute(sql.create_alike_table(self.contract, within))
            positions = con.sql(sql.select_repeated(self.contract)).to_arrow_table().column(POSITION)
        return positions.combine_chunks()


class CodedColumns:
    """Columns of all rows in memory, to take rows by position from. Strings are codes of one to four bytes.

    Each level is stored once, so that a row takes a few bytes. The files are read one at a time.
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
            for name, parts_of_column in chunks.items():
                parts_of_column += table.column(name).chunks
        for name, parts in codes.items():
            self._values[name] = np.concatenate([np.empty(0, np.uint8), *parts])
        for name, parts_of_column in chunks.items():
            kind = contract.columns[name].arrow_type
            # DuckDB writes every instant in UTC
            self._values[name] = pa.chunked_array([part.cast(kind) for part in parts_of_column], kind)

    def take(self, positions: np.ndarray) -> pa.Table:
        """The rows at the positions, in their order, with the contract's types."""
        columns = {}
        for name, values in self._values.items():
            if isinstance(values, np.ndarray):
                codes = values[positions]
                columns[name] = self._levels[name].take(pa.array(codes))
            else:
                columns[name] = values.take(pa.array(positions))
        return pa.table(columns)


def _code_type(levels: int) -> type[np.unsignedinteger[Any]]:
    return np.uint8 if levels <= 2**8 else np.uint16 if levels <= 2**16 else np.uint32


def _coded(chunks: list[pa.DictionaryArray], levels: pa.Array) -> tuple[pa.Array, list[np.ndarray]]:
    """The levels with the new ones added, and the code of every row: its level's place. Null is the first level."""
    new = pc.unique(pa.chunked_array([chunk.dictionary for chunk in chunks], pa.string()))
    levels = pa.concat_arrays([levels, new.filter(pc.invert(pc.is_in(new, value_set=levels)))])
    codes = []
    for chunk in chunks:
        places = pc.index_in(chunk.dictionary, value_set=levels).to_numpy(zero_copy_only=False)
        # the code of null is the last one, which index -1 selects
        table = np.append(places, 0).astype(_code_type(len(levels)))
        codes.append(table[pc.fill_null(chunk.indices, -1).to_numpy()])
    return levels, codes
