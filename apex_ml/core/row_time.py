"""The times of rows: of their dates, or of their instants where the timestamp column has the type timestamp."""

from __future__ import annotations

from datetime import date, datetime, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa

from apex_ml.contract.history_state import StateColumn
from apex_ml.contract.model import Contract
from apex_ml.contract.time_units import EPOCH, EPOCH_IN_UTC, EPOCH_ON_CLOCK


def times_of(contract: Contract, table: pa.Table) -> np.ndarray:
    """The times of the rows since 1970-01-01 UTC, int64, (n,): days of a date, else microseconds."""
    return integer_times(table.column(contract.timestamp))


def integer_times(values: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Dates as days and times as microseconds since 1970-01-01, int64, (n,); null is 0."""
    if pa.types.is_date(values.type):
        values = values.cast(pa.int32())
    integers: np.ndarray = values.cast(pa.int64()).fill_null(0).to_numpy()
    return integers


def time_array(contract: Contract, times: np.ndarray, unknown: np.ndarray | None = None) -> pa.Array:
    """The inverse of :func:`times_of`: values of the timestamp column, null where `unknown`."""
    if not contract.has_instants:
        return pa.array(times.astype(np.int32), pa.int32(), mask=unknown).cast(pa.date32())
    return pa.array(times, pa.int64(), mask=unknown).cast(contract.time_type)


def state_type(contract: Contract, column: StateColumn) -> pa.DataType:
    """Arrow type of a column of the history's state."""
    return contract.time_type if column.type == "time" else pa.int64()


def state_array(contract: Contract, column: StateColumn, values: np.ndarray) -> pa.Array:
    """Integers (n,) as the values of a column of the history's state."""
    return time_array(contract, values) if column.type == "time" else pa.array(values)


def time_value(contract: Contract, when: date) -> int:
    """The time of a day, as :func:`times_of` gives it: of its first instant on the clock of the contract."""
    if not contract.has_instants:
        return (when - EPOCH).days
    moment = contract.first_time(when)
    assert isinstance(moment, datetime)
    return (moment - (EPOCH_ON_CLOCK if moment.tzinfo is None else EPOCH_IN_UTC)) // timedelta(microseconds=1)


def time_from(contract: Contract, time: int) -> date:
    """The inverse of :func:`time_value`: a day, or an instant, in UTC where the timestamp column has a time zone."""
    if not contract.has_instants:
        return EPOCH + timedelta(days=time)
    zone = contract.columns[contract.timestamp].timezone
    return (EPOCH_ON_CLOCK if zone is None else EPOCH_IN_UTC) + timedelta(microseconds=time)


def clock_of(contract: Contract, times: np.ndarray) -> np.ndarray:
    """Times, as :func:`times_of` gives them, on the clock of the time zone of the timestamp column."""
    if not contract.has_instants:
        return times
    zone = contract.columns[contract.timestamp].timezone
    if zone is None:
        return times
    local = pd.DatetimeIndex(times.view("M8[us]")).tz_localize("UTC").tz_convert(zone).tz_localize(None)
    clock: np.ndarray = local.to_numpy().astype("M8[us]").astype(np.int64)
    return clock


def days_of(contract: Contract, table: pa.Table) -> np.ndarray:
    """The days of the rows since 1970-01-01, int64, (n,); of an instant the day on the clock of its time zone."""
    return clock_of(contract, times_of(contract, table)) // contract.times_a_day
