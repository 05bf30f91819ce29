"""Every entity's history in memory, so that a request needs no database."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from apex_ml.adapters.duckdb.engine import errors_name
from apex_ml.contract.model import Contract
from apex_ml.contract.names import LAST_DATE
from apex_ml.errors import DataError

TEXT_BYTES, PLACE_BYTES, STATE_BYTES, SLOT_BYTES = 64, 32, 8, 20
"""Of CPython on 64 bits: a short text without its letters, a whole number, a value of a state, a slot of a dict."""


def history_bytes(contract: Contract, snapshot: Path, names: Sequence[str]) -> int:
    """The bytes in memory of the :class:`History` of a snapshot, estimated from the file's metadata.

    Raises :class:`~apex_ml.errors.DataError` when the file cannot be read.
    """
    with _readable(snapshot):
        metadata = pq.read_metadata(snapshot)
        groups = [metadata.row_group(n) for n in range(metadata.num_row_groups)]
        chunks = [group.column(n) for group in groups for n in range(group.num_columns)]
        letters: int = sum(c.total_uncompressed_size for c in chunks if c.path_in_schema == contract.entity)
    rows: int = metadata.num_rows
    slots = 1 << max(3, (rows * 3 // 2).bit_length())  # a dict doubles when two thirds are full
    return rows * (TEXT_BYTES + PLACE_BYTES + STATE_BYTES * len(names)) + letters + SLOT_BYTES * slots


@contextmanager
def _readable(snapshot: Path) -> Iterator[None]:
    with errors_name(f"history snapshot {snapshot}"):
        try:
            yield
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"history snapshot {snapshot}: cannot be read: {error}") from error


class History:
    """The states of a history snapshot, one row per entity. One without a row has no history, as in a drop.

    Raises :class:`~apex_ml.errors.DataError` when the file cannot be read.
    """

    def __init__(self, contract: Contract, snapshot: Path, sha256: str, as_of: date, names: Sequence[str]) -> None:
        self.sha256, self.as_of, self.names = sha256, as_of, tuple(names)
        with _readable(snapshot):
            table = pq.read_table(snapshot, columns=[contract.entity, *names], memory_map=False)
        entities = table.column(contract.entity).to_pylist()
        self._places = {entity: place for place, entity in enumerate(entities)}
        # an entity without history has the row of zeros at the end, at place -1; `finish` reads null as zero, too
        self._states = {name: np.append(_integers(table.column(name)), 0) for name in names}

    def __len__(self) -> int:
        """Number of entities."""
        return len(self._places)

    def places(self, entities: Sequence[str]) -> np.ndarray:
        """The place of each entity's state, -1 without history, shape (n,)."""
        find = self._places.get
        return np.fromiter((find(entity, -1) for entity in entities), np.int64, len(entities))

    def states(self, places: np.ndarray) -> dict[str, pa.Array]:
        """The state columns at these places."""
        columns = {}
        for name, values in self._states.items():
            taken = values[places]
            columns[name] = pa.array(taken.astype(np.int32)).view(pa.date32()) if name == LAST_DATE else pa.array(taken)
        return columns


def _integers(column: pa.ChunkedArray) -> np.ndarray:
    if pa.types.is_date(column.type):
        column = column.cast(pa.int32())
    values: np.ndarray = column.cast(pa.int64()).fill_null(0).to_numpy()
    return values
