"""The history by other columns for asked rows, by the replay that training uses."""

from __future__ import annotations

import duckdb
import numpy as np
import pyarrow as pa

from apex_ml.contract.history_state import history_keys, state_columns
from apex_ml.contract.model import Contract
from apex_ml.contract.names import KEY
from apex_ml.core.history import Replay, settle_ties, whole_entities
from apex_ml.core.row_time import state_type, times_of
from apex_ml.sql.rows import create_asked_keys, select_asked, select_rows_of_keys, states_by

BATCH_ROWS = 32_768


def add_states_by(con: duckdb.DuckDBPyConnection, contract: Contract, asked: str) -> None:
    """Make the relations that :func:`~apex_ml.sql.rows.select_with_state` joins with the relation `asked`.

    There is one for each history by other columns: the state of each (values, time) of `asked`, from the accepted rows.
    What has no history is left out.
    """
    for nr, by in enumerate(history_keys(contract)):
        con.execute(create_asked_keys(by, asked))
        con.register(states_by(nr), _states(con, contract, by, asked))


def _states(con: duckdb.DuckDBPyConnection, contract: Contract, by: tuple[str, ...], asked: str) -> pa.Table:
    requested = con.sql(select_asked(contract, by, asked)).to_arrow_table()
    keys, times = requested.column(KEY).to_numpy(), times_of(contract, requested)
    columns = [column.name for column in state_columns(contract, by)]
    schema = pa.schema([(column.name, state_type(contract, column)) for column in state_columns(contract, by)])
    places, parts = [np.zeros(0, np.int64)], [schema.empty_table()]
    reader = con.sql(select_rows_of_keys(contract, by)).to_arrow_reader(BATCH_ROWS)
    for table in whole_entities(reader, KEY):
        replayed = Replay(contract, settle_ties(contract, table, KEY)[0], by)
        first, last = np.searchsorted(keys, replayed.keys[0]), np.searchsorted(keys, replayed.keys[-1], "right")
        known = first + np.flatnonzero(np.isin(keys[first:last], replayed.keys))
        places.append(known)
        parts.append(replayed.before(keys[known], times[known]).select(columns))
    states = requested.take(pa.array(np.concatenate(places))).drop_columns([KEY])
    together = pa.concat_tables(parts)
    for name in columns:
        states = states.append_column(name, together.column(name))
    return states
