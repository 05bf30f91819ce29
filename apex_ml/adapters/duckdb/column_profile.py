"""Describe the columns of a table, one after the other: the memory that this takes does not grow with the columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from apex_ml.adapters.duckdb.engine import StrictConnection, one_row
from apex_ml.adapters.duckdb.table_source import TableColumn
from apex_ml.core.table_profile.bins import (
    MAX_LEVELS,
    OTHERS,
    number_edges,
    number_text,
    range_labels,
    time_edges,
    time_text,
)
from apex_ml.core.table_profile.values import (
    Q01,
    Q99,
    QUANTILES,
    ColumnProfile,
    Level,
    NumberSummary,
    TextSummary,
    TimeSummary,
)
from apex_ml.sql import table_profile as sql

EXACT_LEVELS = 1_000_000
"""Different values up to which the most frequent ones are counted; of more they are estimated first."""
KEPT_LEVELS = 100
MAX_TEXT = 500
"""Characters of a text up to which it can be a level."""
MAX_DECIMALS = 4


@dataclass(frozen=True)
class BinnedColumn:
    """A profile, and SQL of the bin of a row: a place in `profile.bins`, or -1 for a null."""

    column: TableColumn
    profile: ColumnProfile
    bin_sql: str
    labels: tuple[str, ...]


def profile_column(con: StrictConnection, column: TableColumn, stored: str, rows: int) -> BinnedColumn:
    """Count, summarise and bin the values of a column."""
    known, distinct = one_row(con, sql.count_values(column.sql))
    profile = ColumnProfile(column.name, column.kind, stored, column.formats, rows, known, distinct, (), ())
    profile = replace(profile, odd=column.odd)
    if column.parts is not None:
        profile = replace(profile, derive=column.parts.expression, sources=column.parts.columns)
    if column.kind in ("integer", "number"):
        profile = replace(profile, numbers=_numbers(con, column, known))
    elif column.kind in ("date", "timestamp"):
        profile = replace(profile, times=_times(con, column))
    elif column.kind == "text":
        profile = replace(profile, text=_text(con, column, distinct))
    profile = replace(profile, levels=_levels(con, column, profile))
    bin_sql, labels = _bins(column, profile)
    counts = dict.fromkeys(range(len(labels)), 0)
    for place, _, n in con.execute(sql.count_bins(bin_sql, "0")).fetchall():
        counts[place] = n
    bins = tuple(Level(label, counts[place]) for place, label in enumerate(labels))
    return BinnedColumn(column, replace(profile, bins=bins), bin_sql, labels)


def _numbers(con: StrictConnection, column: TableColumn, known: int) -> NumberSummary | None:
    not_finite, low, high, mean, deviation, zeros, negative, whole, quantiles = one_row(
        con, sql.summarise_numbers(column.sql, QUANTILES)
    )
    if low is None:
        return None
    counts = one_row(con, sql.count_decimals(column.sql, MAX_DECIMALS))
    decimals = next((n for n, count in enumerate(counts) if count == known - not_finite), None)
    return NumberSummary(
        low, high, mean, deviation, zeros, negative, whole, not_finite, tuple(map(float, quantiles)), decimals
    )


def _times(con: StrictConnection, column: TableColumn) -> TimeSummary | None:
    not_finite, first, last, days, with_time, quantiles = one_row(con, sql.summarise_times(column.sql, QUANTILES))
    if not isinstance(first, datetime):  # none, or one beyond the calendar of Python
        return None
    return TimeSummary(
        first, last, days, with_time, not_finite, tuple(quantiles), column.nanoseconds, column.unreadable
    )


def _text(con: StrictConnection, column: TableColumn, distinct: int) -> TextSummary | None:
    shortest, longest, blank, untrimmed, numbers, whole = one_row(con, sql.summarise_text(column.sql))
    if shortest is None:
        return None
    (folded,) = one_row(con, sql.count_folded(column.sql)) if distinct <= EXACT_LEVELS else (distinct,)
    return TextSummary(shortest, longest, blank, untrimmed, numbers, whole, folded)


def _levels(con: StrictConnection, column: TableColumn, profile: ColumnProfile) -> tuple[Level, ...]:
    """The most frequent values; none where nearly all differ, or where values are long texts or no plain values."""
    mostly_different = profile.distinct > max(KEPT_LEVELS, profile.known // 2)
    is_long = profile.text is not None and profile.text.longest > MAX_TEXT
    if column.kind == "other" or mostly_different or is_long:
        return ()
    if profile.distinct <= EXACT_LEVELS:
        rows = con.execute(sql.top_values(column.sql, KEPT_LEVELS)).fetchall()
    else:
        (likely,) = one_row(con, sql.likely_top_values(column.sql, KEPT_LEVELS))
        rows = con.execute(sql.count_some(column.sql, [value for value in likely if value is not None])).fetchall()
    return tuple(Level(value, n) for value, n in rows)


def _bins(column: TableColumn, profile: ColumnProfile) -> tuple[str, tuple[str, ...]]:
    """SQL of the bin, and the labels of the bins."""
    if profile.distinct > MAX_LEVELS and profile.numbers is not None:
        quantiles = profile.numbers.quantiles
        edges = number_edges(quantiles[Q01], quantiles[Q99], column.kind == "integer")
        return sql.number_bin(column.sql, edges), tuple(range_labels(list(map(number_text, edges))))
    if profile.distinct > MAX_LEVELS and profile.times is not None:
        moments = time_edges(profile.times.quantiles[Q01], profile.times.quantiles[Q99])
        return sql.time_bin(column.sql, moments), tuple(range_labels(list(map(time_text, moments))))
    levels = [level.value for level in profile.levels[:MAX_LEVELS]]
    if column.kind in ("integer", "number"):
        levels.sort(key=float)
    elif column.kind in ("date", "timestamp", "boolean"):
        levels.sort()
    rest = [OTHERS] if profile.distinct > len(levels) else []
    return sql.level_bin(column.sql, levels), (*levels, *rest)


def quantile_edges(profile: ColumnProfile, shares: Sequence[float] = ()) -> tuple[float, ...]:
    """Different quantiles of a number, at some shares or all; bins between them have about as many rows each."""
    if profile.numbers is None:
        return ()
    by_share = dict(zip(QUANTILES, profile.numbers.quantiles, strict=True))
    edges = {by_share[share] for share in shares or QUANTILES}
    return tuple(sorted(edge for edge in edges if edge > profile.numbers.low))
