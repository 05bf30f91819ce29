"""Features of a row from what was known just before it.

The recipes of the contract name the *state* of an entity's history that they read, strictly before the row's date.
:mod:`apex_ml.sql.features` and :mod:`apex_ml.core.history` compute it. :func:`finish` then adds the features that
depend on the row's own date. Training, batch scoring and serving all call it, so that they cannot differ.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from apex_ml.contract.column_types import TRUTH, level_of
from apex_ml.contract.columns import Column
from apex_ml.contract.feature_column import FeatureColumn
from apex_ml.contract.features import CalendarPart
from apex_ml.contract.history_state import StateColumn, whole_state
from apex_ml.contract.model import Contract
from apex_ml.contract.names import calendar_name, days_since_name
from apex_ml.contract.recipes.interface import RowStates, numeric
from apex_ml.contract.time_units import MICROSECONDS_A_DAY, MICROSECONDS_AN_HOUR
from apex_ml.core.row_time import clock_of, integer_times, times_of

EXAMPLE_KEY = ("entity", "timestamp")


def kind_of(contract: Contract, feature: str) -> Literal["attribute", "calendar", "history"]:
    """The kind of a feature: attribute (also the days since its date), calendar or history."""
    if feature in {*contract.features.attributes, *map(days_since_name, contract.features.days_since)}:
        return "attribute"
    calendar = {f"{contract.timestamp}_{part}" for part in contract.features.calendar}
    return "calendar" if feature in calendar else "history"


def features_of_entity(contract: Contract) -> frozenset[str]:
    """The features made from the history of the entity."""
    recipes = [recipe for recipe in contract.features.history if not recipe.scope.by]
    return frozenset(feature.column.name for recipe in recipes for feature in recipe.scoped(contract))


def feature_columns(contract: Contract) -> tuple[FeatureColumn, ...]:
    """Every feature that :func:`finish` returns, in row."""
    columns: list[FeatureColumn] = []
    for name in contract.features.attributes:
        columns.append(own_feature(contract.columns[name]))
    columns += [FeatureColumn(days_since_name(name), "numeric") for name in contract.features.days_since]
    columns += [
        FeatureColumn(calendar_name(contract.timestamp, part), "numeric") for part in contract.features.calendar
    ]
    for recipe in contract.features.history:
        columns += [feature.column for feature in recipe.scoped(contract)]
    return tuple(columns)


def _days_since(contract: Contract, column: Column, values: pa.ChunkedArray, times: np.ndarray) -> pa.Array:
    """Days from the date or time in an attribute to the row, whose time is on the clock unless both are instants."""
    if column.type == "timestamp" and contract.has_instants:  # whole microseconds, as a day count would be rounded
        passed = (times - integer_times(values)) / contract.times_a_day
        return pa.array(passed, mask=values.is_null().to_numpy())
    return pc.subtract(pa.array(times / contract.times_a_day), feature_values(column, values))


def calendar_part(days: np.ndarray, part: CalendarPart) -> np.ndarray:
    """A part of the date; Monday is 0. Input are days since 1970-01-01, a Thursday."""
    if part == "day_of_week":
        return (days + 3) % 7
    if part == "weekend":
        return ((days + 3) % 7 >= 5).astype(np.int64)
    dates = days.astype("datetime64[D]")
    months = dates.astype("datetime64[M]")
    if part == "day_of_month":
        day: np.ndarray = (dates - months).astype(np.int64) + 1
        return day
    month: np.ndarray = months.astype(np.int64) % 12
    return month + 1 if part == "month" else month // 3 + 1


def own_feature(column: Column) -> FeatureColumn:
    """A column as a feature of its own; levels without a domain are learned, except those of a boolean."""
    if not column.is_categorical:
        return FeatureColumn(column.name, "numeric")
    if column.domain is not None:
        return FeatureColumn(column.name, "categorical", column.domain.levels)
    if column.type == "boolean":
        return FeatureColumn(column.name, "categorical", tuple(TRUTH.values()))
    return FeatureColumn(column.name, "categorical", None, column.encoding, column.min_level_rows)


def feature_values(column: Column, values: pa.ChunkedArray) -> pa.ChunkedArray:
    """The values of a column as a feature: levels as text, numbers as float64, dates and times as days since 1970."""
    if column.is_categorical:
        return level_texts(column, values)
    if pa.types.is_floating(values.type):  # of a file of features, too
        return values.cast(pa.float64())
    if column.type == "timestamp":
        return pc.divide(values.cast(pa.int64()).cast(pa.float64(), safe=False), float(MICROSECONDS_A_DAY))
    # a number with more than 53 bits becomes the nearest one that a double has
    return (values.cast(pa.int32()) if column.type == "date" else values).cast(pa.float64(), safe=False)


def level_texts(column: Column, values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Values of a column as the text by which levels and classes are named: their names in the contract, if any."""
    texts = values if pa.types.is_string(values.type) else value_texts(column, values)
    if column.domain is None or column.domain.values is None:
        return texts
    places = pc.index_in(texts, value_set=pa.array(column.domain.values, pa.string()))
    return pc.coalesce(pc.take(pa.array(column.domain.levels, pa.string()), places), texts)


def value_texts(column: Column, values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Values of a column as text, without the names that the contract may have for them."""
    if column.type not in ("double", "timestamp"):
        return values.cast(pa.string())
    chunks = []
    for chunk in values.chunks:
        coded = chunk.dictionary_encode()
        texts = pa.array([level_of(value) for value in coded.dictionary.to_pylist()], pa.string())
        chunks.append(texts.take(coded.indices))
    return pa.chunked_array(chunks, pa.string())


def state_needed(contract: Contract, names: Collection[str]) -> tuple[StateColumn, ...]:
    """The state columns that :func:`finish` reads for these features, in the order of the state. None: all features."""
    features = [feature for recipe in contract.features.history for feature in recipe.scoped(contract)]
    needed = {column for f in features if not names or f.column.name in names for column in f.reads}
    return tuple(column for column in whole_state(contract) if column in needed)


def row_inputs(contract: Contract, names: Collection[str]) -> tuple[str, ...]:
    """The row's own attributes that these features need: for :func:`finish` or their state. None: all features.

    The entity is among them where a history is by the entity and other columns.
    """
    features = contract.features
    inputs = [name for name in features.attributes if not names or name in names]
    inputs += [name for name in features.days_since if not names or days_since_name(name) in names]
    for column in state_needed(contract, names):
        inputs += column.scope.by
    return tuple(dict.fromkeys(inputs))


def finish(contract: Contract, table: pa.Table, only: Collection[str] | None = None) -> pa.Table:
    """Add the features that depend on the row's own date. Training and scoring both use this function.

    `table` has the timestamp, the attributes and the state columns, n rows. Returns n rows of the columns of
    :func:`feature_columns`: strings, and float64 with null for unknown values. `only` limits the result to these
    features, which need only the columns of :func:`state_needed`; an empty one means all.
    """
    # without a timestamp nothing reads the times
    times = times_of(contract, table) if contract.has_timestamp else np.zeros(table.num_rows, np.int64)
    clock = clock_of(contract, times)
    days = clock // contract.times_a_day
    columns: dict[str, pa.Array | pa.ChunkedArray] = {}

    def is_needed(name: str) -> bool:
        return not only or name in only

    for name in filter(is_needed, contract.features.attributes):
        columns[name] = feature_values(contract.columns[name], table.column(name))
    for attribute in contract.features.days_since:
        if is_needed(name := days_since_name(attribute)):
            column = contract.columns[attribute]
            columns[name] = _days_since(
                contract, column, table.column(attribute), times if column.is_instant else clock
            )
    for part in contract.features.calendar:
        if is_needed(name := calendar_name(contract.timestamp, part)):
            is_hour = part == "hour"
            values = clock % MICROSECONDS_A_DAY // MICROSECONDS_AN_HOUR if is_hour else calendar_part(days, part)
            columns[name] = numeric(values)
    rows = RowStates(table, times, contract.times_a_day)
    for recipe in contract.features.history:
        for feature in recipe.scoped(contract):
            if is_needed(feature.column.name):
                columns[feature.column.name] = feature.values(rows)
    return pa.table(columns)
