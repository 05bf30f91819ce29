"""Aggregates of ranges of rows equal a loop over the rows of each range."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apex_ml.core.history_aggregates import DistinctCounts, Extremes, LatestValues, RangeAggregate, Sums, count_at_least

Value = int | None
Row = tuple[int, int, Value]
"""Key, day and value."""
ROWS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 6), st.none() | st.integers(-4, 4) | st.just(2**63 - 1)), max_size=40
)


def make(kind: str, rows: list[Row]) -> RangeAggregate:
    keys = np.array([key for key, _, _ in rows], np.int64)
    days = np.array([day for _, day, _ in rows], np.int64)
    known = np.array([value is not None for *_, value in rows], bool)
    values = np.array([value or 0 for *_, value in rows], np.int64)
    if kind == "distinct":
        return DistinctCounts(values, known, keys)
    if kind == "latest":
        return LatestValues(values, known, keys, days)
    if kind == "count":
        return Sums(known, len(rows))
    return Extremes(values, known, "min" if kind == "min" else "max")


def latest(rows: list[Row]) -> Value:
    known = [(day, value) for _, day, value in rows if value is not None]
    return max(known)[1] if known else None


def known(rows: list[Row]) -> list[int]:
    return [value for *_, value in rows if value is not None]


EXPECTED: dict[str, Callable[[list[Row]], Value]] = {
    "distinct": lambda rows: len(set(known(rows))),
    "count": lambda rows: len(known(rows)),
    "latest": latest,
    "min": lambda rows: min(known(rows), default=None),
    "max": lambda rows: max(known(rows), default=None),
}


@pytest.mark.parametrize("kind", EXPECTED)
@given(rows=ROWS)
@settings(deadline=None)
def test_each_range_equals_a_loop(kind: str, rows: list[Row]) -> None:
    rows = sorted(rows, key=lambda row: row[:2])  # within a day in any order
    borders = [n for n in range(len(rows) + 1) if n in (0, len(rows)) or rows[n - 1][:2] != rows[n][:2]]
    ranges = [
        (begin, end)
        for begin in borders
        for end in borders
        if begin <= end and len({key for key, *_ in rows[begin:end]}) <= 1
    ]
    begins, ends = (np.array(side, np.int64) for side in zip(*ranges, strict=True))
    result = make(kind, rows).over(begins, ends).to_pylist()
    assert result == [EXPECTED[kind](rows[begin:end]) for begin, end in ranges]


@given(values=st.lists(st.integers(0, 20), max_size=30), bound=st.integers(0, 25))
@settings(deadline=None)
def test_numbers_of_large_values(values: list[int], bound: int) -> None:
    ranges = [(begin, end) for end in range(len(values) + 1) for begin in range(end + 1)]
    begins, ends = (np.array(side, np.int64) for side in zip(*ranges, strict=True))
    counts = count_at_least(np.array(values, np.int64), begins, ends, np.full(len(ranges), bound))
    assert counts.tolist() == [sum(value >= bound for value in values[begin:end]) for begin, end in ranges]
