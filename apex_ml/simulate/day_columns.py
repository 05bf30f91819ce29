"""The day of a derived timestamp: values of the columns that it is computed from, so that it is on a given day."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from itertools import product
from math import prod
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa

from apex_ml.adapters.duckdb.derived_columns import DerivedColumns
from apex_ml.contract.columns import Column
from apex_ml.contract.model import Contract
from apex_ml.errors import ConfigError

ValueOfDay = Callable[[date], Any]
MAX_TRIED = 30_000
"""Combinations of values that are tried."""
TRIED_DAYS = (date(2024, 3, 17), date(2025, 11, 9), date(2023, 1, 30))
"""Days on which a combination must give the day: no two parts of them are equal."""
_SHORT = ("%Y", "%m", "%d", "%B", "%b")
_TEXTS = (
    *_SHORT,
    *("%y", "%j", "%Y-%m-%d", "%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%Y%m%d", "%Y-%m", "%m-%d", "%Y/%m/%d"),
    *("%Y-%m-%d 12:00:00", "%Y-%m-%dT12:00:00", "%d/%m/%Y 12:00", "%d/%m/%Y 12:00:00", "%Y-%m-%dT12:00:00Z"),
)
"""Formats of a day, or of a part of it, in a text."""


def values_of_day(contract: Contract, sample: pa.Table) -> Mapping[str, ValueOfDay]:
    """For each column that a derived timestamp needs set, its value on a day; the others keep the values of their rows.

    The expression is computed for combinations of likely values: years, months, days, texts and numbers of whole days.
    Raises :class:`~apex_ml.errors.ConfigError` when none of them gives the day.
    """
    when = contract.columns[contract.timestamp]
    assert when.expression is not None  # it is derived
    names = list(dict.fromkeys(when.expression.columns(contract.columns).values()))
    columns = [contract.columns[name] for name in names]
    kept = {column.name: _known_value(column, sample) for column in columns}
    candidates = [_candidates(column, kept[column.name]) for column in columns]
    if prod(map(len, candidates)) > MAX_TRIED:
        candidates = [_candidates(column, kept[column.name], _SHORT) for column in columns]
    combinations = list(product(*candidates)) if prod(map(len, candidates)) <= MAX_TRIED else []
    compute = DerivedColumns(contract)
    for day in TRIED_DAYS:
        rows = [[kept[n] if of is None else of(day) for n, of in zip(names, c, strict=True)] for c in combinations]
        days = _computed_days(contract, compute, names, rows)
        combinations = [c for c, computed in zip(combinations, days, strict=True) if computed == day]
    if not combinations:
        raise ConfigError(
            f"rows are not drawn, as the timestamp {when.name} is derived by {when.derive}: no likely values of"
            f" {', '.join(names)} put a row on another day; deliver a file"
        )
    best = max(combinations, key=lambda combination: sum(of is None for of in combination))
    return {name: of for name, of in zip(names, best, strict=True) if of is not None}


def _known_value(column: Column, sample: pa.Table) -> Any:
    """A value of a column in the sample, of the contract's type; None when all are null."""
    if column.name not in sample.column_names:
        return None
    known = sample.column(column.name).drop_null().slice(0, 1)
    return known.cast(column.arrow_type, safe=False).to_pylist()[0] if len(known) else None


def _candidates(column: Column, kept: Any, formats: Sequence[str] = _TEXTS) -> list[ValueOfDay | None]:
    """Values that a column may have on a day; None to keep its own."""
    values: list[ValueOfDay | None] = [None] if kept is not None else []
    if column.type == "date":
        return [lambda day: day, *values]
    if column.type == "timestamp":
        zone = None if column.timezone is None else ZoneInfo(column.timezone)
        return [lambda day: datetime.combine(day, time(12), zone), *values]
    if column.type == "string":
        return [*values, *(lambda day, form=form: day.strftime(form) for form in formats)]
    if column.type == "boolean":
        return values or [lambda _: False]
    numbers: list[ValueOfDay] = [lambda day: day.year, lambda day: day.month, lambda day: day.day]
    if formats != _SHORT:
        numbers += [
            lambda day: day.year % 100,
            lambda day: day.timetuple().tm_yday,
            lambda day: day.isocalendar().week,
            lambda day: day.isoweekday(),
            lambda day: day.year * 100 + day.month,
            lambda day: (day.year * 100 + day.month) * 100 + day.day,
            lambda day: (day - date(1970, 1, 1)).days,
            *(lambda day, of_second=of_second: _noon(day) * of_second for of_second in (1, 1000, 1_000_000)),
        ]
    return [*values, *numbers]


def _noon(day: date) -> int:
    """Seconds from 1970 to noon of a day, which is of this day in nearly every time zone."""
    return (datetime.combine(day, time(12), UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1)


def _computed_days(
    contract: Contract, compute: DerivedColumns, names: Sequence[str], rows: Sequence[Sequence[Any]]
) -> list[date | None]:
    """The day of the timestamp for values of the columns it is derived from; None where it has none."""
    if not rows:
        return []
    columns: dict[str, Sequence[Any]] = {name: [None] * len(rows) for name in contract.file_columns}
    columns |= dict(zip(names, zip(*rows, strict=True), strict=True))
    zone = contract.columns[contract.timestamp].timezone
    days: list[date | None] = []
    for computed in compute(columns)[contract.timestamp]:
        value = None if computed.fault is not None else computed.value
        if isinstance(value, datetime):
            value = (value if zone is None else value.astimezone(ZoneInfo(zone))).date()
        days.append(value)
    return days
