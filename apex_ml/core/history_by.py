"""The history by other columns than the entity, for all rows at once."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date

import numpy as np
import pyarrow as pa

from apex_ml.contract.history_state import longest_window, state_columns
from apex_ml.contract.model import Contract
from apex_ml.contract.names import KEY, POSITION, SINCE, WINDOW_DAYS
from apex_ml.core.history import Replay


class StatesBy:
    """The state of the history by some columns before every row, to take rows by position from.

    `tables` are the rows with the number `KEY` of their values, as :class:`~apex_ml.core.history.Replay` takes them,
    and `keys` has the values of each number. A state takes eight bytes a row. A row with an unknown value has no
    history: all of its state is 0. With `as_of` there is a snapshot of that day, one row per combination of values.
    """

    def __init__(
        self,
        contract: Contract,
        by: tuple[str, ...],
        tables: Iterable[pa.Table],
        keys: pa.Table,
        rows: int,
        as_of: date | None,
    ) -> None:
        self.by, self._columns = by, state_columns(contract, by)
        self._values = {column.name: np.zeros(rows, np.int64) for column in self._columns}
        key_types = [contract.arrow_schema().field(name) for name in by]
        parts = [self._schema(key_types, contract.features.history_lag_days > 0).empty_table()]
        for table in tables:
            replayed = Replay(contract, table, by)
            states = replayed.every_row()
            positions = states.column(POSITION).to_numpy()
            for column in self._columns:
                self._values[column.name][positions] = _integers(states.column(column.name))
            if as_of is not None:
                state = replayed.snapshot(as_of)
                own = keys.take(state.column(KEY)).select(by).cast(pa.schema(key_types))
                for name in state.drop_columns([KEY]).column_names:
                    own = own.append_column(name, state.column(name))
                parts.append(own)
        self.snapshot = pa.concat_tables(parts)

    def _schema(self, keys: list[pa.Field], has_lag: bool) -> pa.Schema:
        plain = [column for column in self._columns if column.scope.window is None]
        lists = [column for column in self._columns if column.scope.window is not None]
        since = [pa.field(SINCE, pa.date32())] if has_lag else []
        fields = [*keys, *since, *(pa.field(c.name, pa.date32() if c.type == "DATE" else pa.int64()) for c in plain)]
        if longest_window(self._columns):
            fields.append(pa.field(WINDOW_DAYS, pa.list_(pa.date32())))
        return pa.schema([*fields, *(pa.field(c.name, pa.list_(pa.int64())) for c in lists)])

    def take(self, positions: np.ndarray) -> dict[str, pa.Array]:
        """The state columns of the rows at the positions, in their sequence."""
        states = {}
        for column in self._columns:
            values = pa.array(self._values[column.name][positions])
            states[column.name] = values.cast(pa.int32()).cast(pa.date32()) if column.type == "DATE" else values
        return states


def _integers(column: pa.ChunkedArray) -> np.ndarray:
    if pa.types.is_date(column.type):
        column = column.cast(pa.int32())
    values: np.ndarray = column.cast(pa.int64()).fill_null(0).to_numpy()
    return values
