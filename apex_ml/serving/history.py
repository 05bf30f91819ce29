"""Every entity's history in memory, so that a request needs no database."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from apex_ml.adapters.duckdb.engine import errors_name
from apex_ml.contract.history_state import StateColumn, longest_window
from apex_ml.contract.model import Contract
from apex_ml.contract.names import SINCE, WINDOW_DAYS, snapshot_by
from apex_ml.core.row_time import integer_times, state_array
from apex_ml.core.timeline import Timeline
from apex_ml.errors import DataError

TEXT_BYTES, PLACE_BYTES, STATE_BYTES, SLOT_BYTES = 64, 32, 8, 20
"""Of CPython on 64 bits: a short text without its letters, a whole number, a value of a state, a slot of a dict."""


def names_in_snapshot(columns: Sequence[StateColumn]) -> list[str]:
    """The columns of a snapshot that hold these columns of the state."""
    names = [column.name for column in columns]
    return [*names, WINDOW_DAYS] if longest_window(columns) else names


def history_bytes(contract: Contract, snapshot: Path, columns: Sequence[StateColumn]) -> int:
    """The bytes in memory of the :class:`History` of a snapshot, estimated from the file's metadata.

    Raises :class:`~apex_ml.errors.DataError` when the file cannot be read.
    """
    others = dict.fromkeys(column.scope.by for column in columns if column.scope.by)
    return sum(_file_bytes(contract, snapshot, by, columns) for by in ((), *others))


def _file_bytes(contract: Contract, snapshot: Path, by: tuple[str, ...], columns: Sequence[StateColumn]) -> int:
    columns, snapshot = [column for column in columns if column.scope.by == by], snapshot_by(snapshot, by)
    keys = by or (contract.entity,)
    with _readable(snapshot):
        metadata = pq.read_metadata(snapshot)
        groups = [metadata.row_group(n) for n in range(metadata.num_row_groups)]
        chunks = [group.column(n) for group in groups for n in range(group.num_columns)]
        letters: int = sum(c.total_uncompressed_size for c in chunks if c.path_in_schema in keys)
        paths = {path for name in names_in_snapshot(columns) for path in (name, f"{name}.list.element")}
        values: int = sum(chunk.num_values for chunk in chunks if chunk.path_in_schema in paths)
    rows: int = metadata.num_rows
    slots = 1 << max(3, (rows * 3 // 2).bit_length())  # a dict doubles when two thirds are full
    return rows * (TEXT_BYTES * len(keys) + PLACE_BYTES) + STATE_BYTES * values + letters + SLOT_BYTES * slots


@contextmanager
def _readable(snapshot: Path) -> Iterator[None]:
    with errors_name(f"history snapshot {snapshot}"):
        try:
            yield
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"history snapshot {snapshot}: cannot be read: {error}") from error


class History:
    """The states of a history snapshot: of every entity, and of the values by which other rows share a history.

    Raises :class:`~apex_ml.errors.DataError` when a file cannot be read.
    """

    def __init__(
        self, contract: Contract, snapshot: Path, sha256: str, as_of: date, since: date, columns: Sequence[StateColumn]
    ) -> None:
        self.sha256, self.as_of, self.since, self.columns = sha256, as_of, since, tuple(columns)
        self.lag = contract.history_lag
        self._of_entities = KeyedStates(contract, snapshot, (), columns)
        others = dict.fromkeys(column.scope.by for column in columns if column.scope.by)
        self._others = [KeyedStates(contract, snapshot, by, columns) for by in others]

    def __len__(self) -> int:
        """Number of entities."""
        return len(self._of_entities.places)

    def is_of(self, contract: Contract, sha256: str, columns: Sequence[StateColumn]) -> bool:
        """Whether it has these columns of a snapshot, under the lag of a contract."""
        return (self.sha256, self.columns, self.lag) == (sha256, tuple(columns), contract.history_lag)

    def places(self, entities: Sequence[str]) -> np.ndarray:
        """The place of each entity's state, -1 without history, shape (n,)."""
        return self._of_entities.find(entities)

    def states(self, places: np.ndarray, times: np.ndarray, row: Mapping[str, pa.Array]) -> dict[str, pa.Array]:
        """The state columns for rows at these places of entities, of these times since 1970-01-01, shape (n,).

        `row` has the rows' own columns by which they share a history.
        """
        states = self._of_entities.states(places, times)
        for others in self._others:
            values = zip(*(row[name].to_pylist() for name in others.by), strict=True)
            states |= others.states(others.find(list(values)), times)
        return {column.name: states[column.name] for column in self.columns}


class KeyedStates:
    """The states of one file: of every entity or combination of values. What has no row has no history."""

    def __init__(self, contract: Contract, snapshot: Path, by: tuple[str, ...], columns: Sequence[StateColumn]) -> None:
        self._contract, self.by = contract, by
        self._columns = [column for column in columns if column.scope.by == by]
        keys, path = list(by or (contract.entity,)), snapshot_by(snapshot, by)
        with _readable(path):
            since = [SINCE] if SINCE in pq.read_schema(path).names else []
            table = pq.read_table(path, columns=[*keys, *since, *names_in_snapshot(self._columns)], memory_map=False)
        values = [table.column(name).to_pylist() for name in keys]
        rows = zip(*values, strict=True) if by else values[0]
        # of several states of a key, which follow one another, the place of the last one
        self.places = {key: place for place, key in enumerate(rows)}
        self._kept = Kept(table.column(SINCE), list(self.places.values())) if since else None
        # what has no history has the row of zeros at the end, at place -1; `finish` reads null as zero, too
        self._states = {
            column.name: np.append(integer_times(table.column(column.name)), 0)
            for column in self._columns
            if column.scope.window is None
        }
        windowed = [column for column in self._columns if column.scope.window is not None]
        self._windows = Windows(contract, table, windowed) if windowed else None

    def find(self, keys: Sequence[Hashable]) -> np.ndarray:
        """The place of the newest state of each key, -1 without history, shape (n,)."""
        find = self.places.get
        return np.fromiter((find(key, -1) for key in keys), np.int64, len(keys))

    def states(self, places: np.ndarray, times: np.ndarray) -> dict[str, pa.Array]:
        """The state columns at these places, for rows of these times since 1970-01-01; both have shape (n,)."""
        states, places = {}, places if self._kept is None else self._kept.holding(places, times)
        for column in self._columns:
            if column.scope.window is not None and self._windows is not None:
                states[column.name] = self._windows.values(column, places, times)
                continue
            states[column.name] = state_array(self._contract, column, self._states[column.name][places])
        return states


class Kept:
    """Which of the states of a key holds at a time, in a snapshot that has several of them.

    `newest` has the place of the last state of each key, in the order of the rows.
    """

    def __init__(self, since: pa.ChunkedArray, newest: Sequence[int]) -> None:
        ends = np.array(newest, np.int64) + 1
        self._firsts = np.append(0, ends[:-1])
        self._keys = np.repeat(np.arange(len(ends)), ends - self._firsts)
        self._timeline = Timeline(self._keys, integer_times(since))

    def holding(self, places: np.ndarray, times: np.ndarray) -> np.ndarray:
        """The places of the states that hold at the times, from those of the newest ones; both have shape (n,)."""
        known = places >= 0
        keys = self._keys[places[known]]
        result = places.copy()
        result[known] = np.maximum(self._timeline.first_from(keys, times[known] + 1) - 1, self._firsts[keys])
        return result


class Windows:
    """The lists of a snapshot, one after the other: the states of the rows of each entity from each of its times on."""

    def __init__(self, contract: Contract, table: pa.Table, columns: Sequence[StateColumn]) -> None:
        lists = table.column(WINDOW_DAYS).combine_chunks()
        lengths = pc.list_value_length(lists).to_numpy()
        self._lag, self._a_day = contract.history_lag, contract.times_a_day
        self._ends = np.append(np.cumsum(lengths), 0)  # at place -1, without history
        self._timeline = Timeline(np.repeat(np.arange(len(lengths)), lengths), integer_times(lists.flatten()))
        # behind the last time there is no row, which `finish` reads as zero
        self._states = {
            column.name: np.append(integer_times(table.column(column.name).combine_chunks().flatten()), 0)
            for column in columns
        }

    def values(self, column: StateColumn, places: np.ndarray, times: np.ndarray) -> pa.Array:
        """A column at these places, for rows of these times."""
        since = times - self._lag - (column.scope.window or 0) * self._a_day
        first = self._timeline.first_from(places, since)
        return pa.array(self._states[column.name][np.where(first < self._ends[places], first, -1)])
