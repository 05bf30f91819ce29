"""The history by other columns than the entity, for all rows at once."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from apex_ml.contract.history_state import longest_window, state_columns
from apex_ml.contract.model import Contract
from apex_ml.contract.names import KEY, POSITION, SINCE, WINDOW_DAYS
from apex_ml.core.history import Replay
from apex_ml.core.row_time import integer_times, state_array, state_type


class StatesBy:
    """The state of the history by some columns before every row, to take rows by position from.

    `tables` are the rows with the number `KEY` of their values, as :class:`~apex_ml.core.history.Replay` takes them,
    and `keys` has the values of each number. A state takes eight bytes a row. A row with an unknown value has no
    history: all of its state is 0. With `since` there is a snapshot for rows from that time on.
    """

    def __init__(
        self,
        contract: Contract,
        by: tuple[str, ...],
        tables: Iterable[pa.Table],
        keys: pa.Table,
        rows: int,
        since: int | None,
    ) -> None:
        self._contract, self.by, self._columns = contract, by, state_columns(contract, by)
        self._values = {column.name: np.zeros(rows, np.int64) for column in self._columns}
        key_types = [contract.arrow_schema().field(name) for name in by]
        parts = [self._schema(key_types).empty_table()]
        for table in tables:
            replayed = Replay(contract, table, by)
            states = replayed.every_row()
            positions = states.column(POSITION).to_numpy()
            for column in self._columns:
                self._values[column.name][positions] = integer_times(states.column(column.name))
            if since is not None:
                state = replayed.snapshot(since)
                own = keys.take(state.column(KEY)).select(by).cast(pa.schema(key_types))
                for name in state.drop_columns([KEY]).column_names:
                    own = own.append_column(name, state.column(name))
                parts.append(own)
        self.snapshot = pa.concat_tables(parts)

    def _schema(self, keys: list[pa.Field]) -> pa.Schema:
        plain = [column for column in self._columns if column.scope.window is None]
        lists = [column for column in self._columns if column.scope.window is not None]
        of_time = self._contract.time_type
        since = [pa.field(SINCE, of_time)] if self._contract.history_lag else []
        fields = [*keys, *since, *(pa.field(c.name, state_type(self._contract, c)) for c in plain)]
        if longest_window(self._columns):
            fields.append(pa.field(WINDOW_DAYS, pa.list_(of_time)))
        return pa.schema([*fields, *(pa.field(c.name, pa.list_(pa.int64())) for c in lists)])

    def take(self, positions: np.ndarray) -> dict[str, pa.Array]:
        """The state columns of the rows at the positions, in their sequence."""
        return {
            column.name: state_array(self._contract, column, self._values[column.name][positions])
            for column in self._columns
        }
