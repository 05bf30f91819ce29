"""Features of an order as of just before it.

The recipes of the contract become SQL text that yields, for each order, its attributes and the *state* of its client's
history strictly before the order's date; :func:`finish` then adds what depends on the order's own date. Training, batch
scoring and serving all go through these two, so that they cannot differ.

State is exact: counts are integers and sums are integers of the measure's smallest unit, so that no result depends on
the order in which rows were read or threads finished.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import date
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from apex_ml.contract.columns import Column
from apex_ml.contract.features import (
    CalendarPart,
    CountRecipe,
    DaysSinceLastRecipe,
    LastTargetRecipe,
    MeanRecipe,
    TargetShareRecipe,
    TargetTrendRecipe,
)
from apex_ml.contract.model import Contract
from apex_ml.contract.names import (
    DAYS,
    DAYS_SQUARED,
    LAST_DATE,
    LAST_TARGET,
    ORDERS,
    SINCE_LAST,
    calendar_name,
    count_name,
    days_name,
    known_name,
    last_name,
    mean_name,
    share_name,
    sum_name,
    trend_name,
)
from apex_ml.sql.quote import identifier, identifiers, literal

DAYS_A_YEAR = 365.25
EXAMPLE_KEY = ("entity", "timestamp")


@dataclass(frozen=True)
class FeatureColumn:
    """One input of a model. Categorical columns are strings; `levels` is None when they are learned from data."""

    name: str
    kind: Literal["categorical", "numeric"]
    levels: tuple[str, ...] | None = None


def kind_of(contract: Contract, feature: str) -> Literal["attribute", "calendar", "history"]:
    """The kind of a feature: attribute, calendar or history."""
    if feature in contract.features.attributes:
        return "attribute"
    calendar = {f"{contract.timestamp}_{part}" for part in contract.features.calendar}
    return "calendar" if feature in calendar else "history"


def trend_levels(contract: Contract) -> tuple[str, ...]:
    """Target levels whose trend is asked for."""
    recipes = [r for r in contract.features.history if isinstance(r, TargetTrendRecipe)]
    return tuple(dict.fromkeys(r.level for r in recipes))


def mean_measures(contract: Contract) -> tuple[str, ...]:
    """Measures whose mean is asked for."""
    recipes = [r for r in contract.features.history if isinstance(r, MeanRecipe)]
    return tuple(dict.fromkeys(name for recipe in recipes for name in recipe.columns))


def unit(contract: Contract, measure: str) -> int:
    """Smallest units of a measure in one, a power of ten."""
    return int(10 ** (contract.columns[measure].decimals or 0))


def exact_sql(contract: Contract, measure: str, relation: str) -> str:
    """SQL: a measure in its smallest unit, an integer."""
    return f"CAST(round({relation}.{identifier(measure)} * {unit(contract, measure)}) AS BIGINT)"


def place_sql(contract: Contract, relation: str) -> str:
    """SQL: place of the target among the classes, from 1; 0 for none of them."""
    cases = " ".join(f"WHEN {literal(level)} THEN {place}" for place, level in enumerate(contract.classes, 1))
    return f"CASE {relation}.{identifier(contract.target)} {cases} ELSE 0 END"


def day_sql(contract: Contract, relation: str) -> str:
    """SQL: days from 1970-01-01 to the order."""
    return f"date_diff('day', DATE '1970-01-01', {relation}.{identifier(contract.timestamp)})"


def _total(value: str) -> str:
    return f"CAST(coalesce(sum({value}), 0) AS BIGINT)"


def state_columns(contract: Contract) -> tuple[tuple[str, str, str], ...]:
    """The history state as (name, DuckDB type, SQL aggregate over the history's rows `h`)."""
    target, when = f"h.{identifier(contract.target)}", f"h.{identifier(contract.timestamp)}"
    day = day_sql(contract, "h")
    size = len(contract.classes) + 1
    # the latest day first and the domain's order second, in one integer: its maximum is the last target
    latest = f"max({day} * {size} + {place_sql(contract, 'h')})"
    columns = [
        (ORDERS, "BIGINT", f"count({when})"),
        (LAST_DATE, "DATE", f"max({when})"),
        (LAST_TARGET, "BIGINT", f"{latest} % {size}"),
    ]
    columns += [
        (count_name(level), "BIGINT", f"count(*) FILTER (WHERE {target} = {literal(level)})")
        for level in contract.classes
    ]
    for measure in mean_measures(contract):
        columns.append((sum_name(measure), "BIGINT", _total(exact_sql(contract, measure, "h"))))
        columns.append((known_name(measure), "BIGINT", f"count(h.{identifier(measure)})"))
    if levels := trend_levels(contract):
        columns += [(DAYS, "BIGINT", _total(day)), (DAYS_SQUARED, "BIGINT", _total(f"{day} * {day}"))]
        columns += [
            (days_name(level), "BIGINT", _total(f"CASE WHEN {target} = {literal(level)} THEN {day} END"))
            for level in levels
        ]
    return tuple(columns)


def state_sql(contract: Contract, asked: str, orders: str) -> str:
    """SQL: the state of each (entity, timestamp) of the relation `asked`, from the relation `orders`.

    Only orders dated strictly before the asked date less `history_lag_days` count. An entity without any has zero
    counts and null dates.
    """
    entity, when = identifier(contract.entity), identifier(contract.timestamp)
    lag = contract.features.history_lag_days
    before = f"a.{when} - {lag}" if lag else f"a.{when}"
    select = ", ".join(f"{sql} AS {identifier(name)}" for name, _, sql in state_columns(contract))
    return (
        f"SELECT a.{entity}, a.{when}, {select} FROM (SELECT DISTINCT {entity}, {when} FROM {asked}) AS a "
        f"LEFT JOIN {orders} AS h ON h.{entity} = a.{entity} AND h.{when} < {before} GROUP BY a.{entity}, a.{when}"
    )


def examples_sql(contract: Contract, orders: str) -> str:
    """SQL: the orders that become examples, each with the columns known before it and its target.

    With the grain `last_order_per_entity`, of several orders on an entity's last day the one with the largest
    measures, compared in the contract's order in their smallest unit, then the last target level, then the last
    attributes is taken: a rule of the content alone.
    """
    entity, when = map(identifier, (contract.entity, contract.timestamp))
    columns = identifiers(contract.named("entity", "timestamp", "target", "attribute"))
    if contract.features.grain == "every_order":
        return f"SELECT {columns} FROM {orders}"
    ties = [f"{exact_sql(contract, m, 'o')} DESC NULLS LAST" for m in contract.named("measure")]
    ties.append(f"{place_sql(contract, 'o')} DESC")
    ties += [f"{identifier(name)} DESC NULLS LAST" for name in contract.named("attribute")]
    last = f"SELECT {entity}, max({when}) AS {when} FROM {orders} GROUP BY {entity}"
    return (
        f"SELECT {columns} FROM {orders} AS o SEMI JOIN ({last}) AS last USING ({entity}, {when}) "
        f"QUALIFY row_number() OVER (PARTITION BY {entity} ORDER BY {', '.join(ties)}) = 1"
    )


def snapshot_sql(contract: Contract, orders: str, as_of: date) -> str:
    """SQL: the state of every entity as of a date, one row an entity, ordered by entity."""
    entity, when = identifier(contract.entity), identifier(contract.timestamp)
    asked = f"(SELECT {entity}, {literal(as_of)} AS {when} FROM {orders})"
    names = ", ".join([entity, *(identifier(name) for name, _, _ in state_columns(contract))])
    return f"SELECT {names} FROM ({state_sql(contract, asked, orders)}) ORDER BY {entity}"


def feature_columns(contract: Contract) -> tuple[FeatureColumn, ...]:
    """Every feature that :func:`finish` yields, in order."""
    columns: list[FeatureColumn] = []
    for name in contract.features.attributes:
        column = contract.columns[name]
        if column.type == "string":
            columns.append(FeatureColumn(name, "categorical", column.domain.levels if column.domain else None))
        else:
            columns.append(FeatureColumn(name, "numeric"))
    columns += [
        FeatureColumn(calendar_name(contract.timestamp, part), "numeric") for part in contract.features.calendar
    ]
    for recipe in contract.features.history:
        if isinstance(recipe, CountRecipe):
            columns.append(FeatureColumn(ORDERS, "numeric"))
        elif isinstance(recipe, DaysSinceLastRecipe):
            columns.append(FeatureColumn(SINCE_LAST, "numeric"))
        elif isinstance(recipe, LastTargetRecipe):
            columns.append(FeatureColumn(last_name(contract.target), "categorical", contract.classes))
        elif isinstance(recipe, TargetShareRecipe):
            columns += [FeatureColumn(share_name(level), "numeric") for level in contract.classes]
        elif isinstance(recipe, TargetTrendRecipe):
            columns.append(FeatureColumn(trend_name(recipe.level), "numeric"))
        else:
            columns += [FeatureColumn(mean_name(measure), "numeric") for measure in recipe.columns]
    return tuple(columns)


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


def _integers(table: pa.Table, name: str) -> np.ndarray:
    """An integer column as int64; null (an entity without history) is 0."""
    values: np.ndarray = pc.fill_null(table.column(name).cast(pa.int64()), 0).to_numpy().astype(np.int64, copy=False)
    return values


def _last_days(table: pa.Table) -> np.ndarray:
    return _integers(table.select([LAST_DATE]).cast(pa.schema([(LAST_DATE, pa.int32())])), LAST_DATE)


def _trend(table: pa.Table, recipe: TargetTrendRecipe) -> np.ndarray:
    """Slope of a level's indicator on time, a year, shrunk towards 0: ridge regression on one centred variable."""
    n, last = _integers(table, ORDERS), _last_days(table)
    days, hits = _integers(table, DAYS), _integers(table, count_name(recipe.level))
    # times n and counted from the last order's day, all of it is exact in small integers
    shifted = days - n * last
    squares = n * (_integers(table, DAYS_SQUARED) - last * (2 * days - n * last)) - shifted * shifted
    products = n * (_integers(table, days_name(recipe.level)) - last * hits) - shifted * hits
    n = np.maximum(n, 1)
    slope: np.ndarray = products / n / DAYS_A_YEAR / (squares / n / DAYS_A_YEAR**2 + recipe.shrinkage)
    return slope


def _attribute(column: Column, values: pa.ChunkedArray) -> pa.ChunkedArray:
    """An attribute as a feature: strings as they are, numbers as float64, a date as days since 1970-01-01."""
    if column.type == "string":
        return values
    return (values.cast(pa.int32()) if column.type == "date" else values).cast(pa.float64())


def state_needed(contract: Contract, names: Collection[str]) -> tuple[str, ...]:
    """The state columns that :func:`finish` reads for these features, in the order of :func:`state_columns`."""
    needed: set[str] = set()
    for recipe in contract.features.history:
        if isinstance(recipe, CountRecipe):
            reads = {ORDERS: {ORDERS}}
        elif isinstance(recipe, DaysSinceLastRecipe):
            reads = {SINCE_LAST: {ORDERS, LAST_DATE}}
        elif isinstance(recipe, LastTargetRecipe):
            reads = {last_name(contract.target): {LAST_TARGET}}
        elif isinstance(recipe, TargetShareRecipe):
            reads = {share_name(level): {ORDERS, count_name(level)} for level in contract.classes}
        elif isinstance(recipe, TargetTrendRecipe):
            of_level = {count_name(recipe.level), days_name(recipe.level)}
            reads = {trend_name(recipe.level): {ORDERS, LAST_DATE, DAYS, DAYS_SQUARED} | of_level}
        else:
            reads = {mean_name(measure): {sum_name(measure), known_name(measure)} for measure in recipe.columns}
        needed |= {column for name, columns in reads.items() if not names or name in names for column in columns}
    return tuple(name for name, _, _ in state_columns(contract) if name in needed)


def finish(contract: Contract, table: pa.Table, only: Collection[str] | None = None) -> pa.Table:
    """Add the features that depend on the order's own date; the one function behind training and scoring.

    `table` has the timestamp, the attributes and the state columns, n rows. Returns n rows of the columns of
    :func:`feature_columns`: strings, and float64 with null where nothing is known. With `only`, those features alone
    are made, and of the state the columns of :func:`state_needed` suffice; an empty one means all.
    """
    days = table.column(contract.timestamp).cast(pa.int32()).to_numpy().astype(np.int64)
    columns: dict[str, pa.Array | pa.ChunkedArray] = {}

    def wanted(name: str) -> bool:
        return not only or name in only

    def numeric(name: str, values: np.ndarray, unknown: np.ndarray | None = None) -> None:
        columns[name] = pa.array(values.astype(np.float64), mask=unknown)

    for name in filter(wanted, contract.features.attributes):
        columns[name] = _attribute(contract.columns[name], table.column(name))
    for part in contract.features.calendar:
        if wanted(name := calendar_name(contract.timestamp, part)):
            numeric(name, calendar_part(days, part))
    for recipe in contract.features.history:
        if isinstance(recipe, CountRecipe):
            if wanted(ORDERS):
                numeric(ORDERS, _integers(table, ORDERS))
        elif isinstance(recipe, DaysSinceLastRecipe):
            if wanted(name := SINCE_LAST):
                numeric(name, days - _last_days(table), _integers(table, ORDERS) == 0)
        elif isinstance(recipe, LastTargetRecipe):
            if wanted(name := last_name(contract.target)):
                levels = pa.array([None, *contract.classes], pa.string())
                columns[name] = levels.take(pa.array(_integers(table, LAST_TARGET)))
        elif isinstance(recipe, TargetShareRecipe):
            for level in contract.classes:
                if wanted(name := share_name(level)):
                    share = (_integers(table, count_name(level)) + recipe.smoothing / len(contract.classes)) / (
                        _integers(table, ORDERS) + recipe.smoothing
                    )
                    numeric(name, share)
        elif isinstance(recipe, TargetTrendRecipe):
            if wanted(name := trend_name(recipe.level)):
                numeric(name, _trend(table, recipe))
        else:
            for measure in recipe.columns:
                if wanted(name := mean_name(measure)):
                    known = _integers(table, known_name(measure))
                    mean = _integers(table, sum_name(measure)) / (np.maximum(known, 1) * unit(contract, measure))
                    numeric(name, mean, known == 0)
    return pa.table(columns)
