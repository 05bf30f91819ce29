"""The history state of many orders in one pass over the orders sorted by entity and day.

What :func:`apex_ml.core.features.state_sql` finds by a join, for any date that is asked, is here a difference of two
running sums, as every order of an entity stands beside the earlier ones. Both give the same integers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from apex_ml.contract.masks import quoted
from apex_ml.contract.model import Contract
from apex_ml.core.features import (
    DAYS,
    DAYS_SQUARED,
    LAST_DATE,
    LAST_TARGET,
    ORDERS,
    count_name,
    day_sql,
    days_name,
    exact_sql,
    known_name,
    mean_measures,
    place_sql,
    sum_name,
    trend_levels,
)

DAY = "history_day"
PLACE = "history_place"
EPOCH_TYPES = {LAST_DATE: pa.date32()}


def exact_name(measure: str) -> str:
    """Column of a measure in its smallest unit."""
    return f"history_exact_{measure}"


def carried_columns(contract: Contract) -> tuple[str, ...]:
    """Columns of an order that travel with its state: what an example needs besides, when every order is one."""
    if contract.features.grain == "every_order":
        return tuple(dict.fromkeys((contract.timestamp, contract.target, *contract.features.attributes)))
    return ()


def compact_sql(contract: Contract, orders: str) -> str:
    """SQL: the orders with what the history needs of them, as integers."""
    columns = [f"o.{quoted(contract.entity)}", f"CAST({day_sql(contract, 'o')} AS INTEGER) AS {DAY}"]
    columns.append(f"CAST({place_sql(contract, 'o')} AS SMALLINT) AS {PLACE}")
    columns += [f"{exact_sql(contract, m, 'o')} AS {quoted(exact_name(m))}" for m in mean_measures(contract)]
    columns += [f"o.{quoted(name)}" for name in carried_columns(contract)]
    return f"SELECT {', '.join(columns)} FROM {orders} AS o"


def _keys(contract: Contract) -> list[str]:
    return [quoted(contract.entity), DAY, PLACE, *(quoted(exact_name(m)) for m in mean_measures(contract))]


def sorted_sql(contract: Contract, compact: str) -> str:
    """SQL: the rows of :func:`compact_sql` in an order that depends on their content alone."""
    keys = [*_keys(contract), *(quoted(name) for name in carried_columns(contract)[2:])]
    return f"SELECT * FROM {compact} ORDER BY {', '.join(keys)}"


def alike_sql(contract: Contract, ordered: str) -> str:
    """SQL: how many rows of the sorted relation equal the one before in entity, day, target and measures.

    None does: then no row of the orders is repeated. The relation is a table, which is read in the order of its rows.
    """
    row = f"row({', '.join(_keys(contract))})"
    return (
        f"SELECT count(*) FILTER (WHERE this = before AND same) FROM (SELECT this, lag(this) OVER () AS before,"
        f" {row} IS NOT DISTINCT FROM lag({row}) OVER () AS same FROM"
        f" (SELECT *, hash({', '.join(_keys(contract))}) AS this FROM {ordered}))"
    )


def whole_entities(batches: Iterable[pa.RecordBatch], entity: str) -> Iterator[pa.Table]:
    """Cut a sorted stream anew, so that all rows of an entity are in one table."""
    kept: list[pa.RecordBatch] = []
    for batch in batches:
        if not batch.num_rows:
            continue
        names = batch.column(entity)
        first = pc.index(names, names[-1]).as_py()
        if first == 0 and kept and kept[-1].column(entity)[-1] == names[-1]:
            kept.append(batch)
            continue
        if kept or first:
            yield pa.Table.from_batches([*kept, batch.slice(0, first)])
        kept = [batch.slice(first)]
    if kept:
        yield pa.Table.from_batches(kept)


def _starts(table: pa.Table, entity: str) -> np.ndarray:
    """True for the first row of each entity, shape (n,)."""
    names = table.column(entity).combine_chunks()
    starts = np.ones(len(names), bool)
    starts[1:] = pc.not_equal(names[1:], names[:-1]).to_numpy(zero_copy_only=False)
    return starts


def _integers(table: pa.Table, name: str) -> np.ndarray:
    values: np.ndarray = pc.fill_null(table.column(name), 0).to_numpy().astype(np.int64)
    return values


def states(contract: Contract, table: pa.Table) -> pa.Table:
    """Add the history state to orders sorted by :func:`sorted_sql`, all rows of an entity in one table.

    Returns the entity, the timestamp, the carried columns and the columns of
    :func:`~apex_ml.core.features.state_columns`: one row an order, or with the grain `last_order_per_entity` one row an
    entity, as of its last order.
    """
    days, places = _integers(table, DAY), _integers(table, PLACE)
    starts = _starts(table, contract.entity)
    rows = np.arange(table.num_rows)
    chosen = rows
    if contract.features.grain == "last_order_per_entity":
        chosen = np.flatnonzero(np.append(starts[1:], True)) if len(rows) else rows
    # one rising number for entity and day; entities lie so far apart that a lag never reaches the one before
    lag = contract.features.history_lag_days
    oldest, newest = (int(days.min()), int(days.max())) if len(rows) else (0, 0)
    moments = (np.cumsum(starts) - 1) * (newest - oldest + 1 + lag) + (days - oldest)
    # the history of row i are the rows begins[i] … ends[i] - 1
    begins = np.maximum.accumulate(np.where(starts, rows, 0))[chosen]
    ends = np.maximum(np.searchsorted(moments, moments[chosen] - lag), begins)
    known = ends > begins
    latest = np.maximum(ends - 1, 0)

    def total(values: np.ndarray) -> pa.Array:
        running = np.zeros(len(values) + 1, np.int64)
        np.cumsum(values, out=running[1:])
        return pa.array(running[ends] - running[begins])

    columns: dict[str, pa.Array | pa.ChunkedArray] = {contract.entity: table.column(contract.entity).take(chosen)}
    columns[contract.timestamp] = pa.array(days[chosen].astype(np.int32), pa.int32()).cast(pa.date32())
    if carried := carried_columns(contract):
        columns |= {name: table.column(name) for name in carried}
    columns[ORDERS] = pa.array(ends - begins)
    columns[LAST_DATE] = pa.array(days[latest].astype(np.int32), pa.int32(), mask=~known).cast(pa.date32())
    columns[LAST_TARGET] = pa.array(places[latest], mask=~known)
    for place, level in enumerate(contract.classes, 1):
        columns[count_name(level)] = total(places == place)
    for measure in mean_measures(contract):
        columns[sum_name(measure)] = total(_integers(table, exact_name(measure)))
        columns[known_name(measure)] = total(table.column(exact_name(measure)).is_valid().to_numpy())
    if levels := trend_levels(contract):
        columns[DAYS], columns[DAYS_SQUARED] = total(days), total(days * days)
        for level in levels:
            columns[days_name(level)] = total(np.where(places == contract.classes.index(level) + 1, days, 0))
    return pa.table(columns)
