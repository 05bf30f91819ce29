"""How a distribution changes over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Literal

import numpy as np

from apex_ml.core.table_profile.values import Drift

VISIBLE, LARGE = 0.1, 0.25
"""Usual limits of the population stability index."""
Unit = Literal["hour", "day", "week", "month", "quarter", "year"]
_UNITS: tuple[tuple[timedelta, Unit], ...] = (
    (timedelta(days=2), "hour"),
    (timedelta(days=45), "day"),
    (timedelta(days=250), "week"),
    (timedelta(days=5 * 366), "month"),
    (timedelta(days=15 * 366), "quarter"),
)


def period_unit(first: datetime, last: datetime) -> Unit:
    """The unit that divides a time into about 10 to 60 periods.

    >>> period_unit(datetime(2023, 1, 1), datetime(2024, 8, 23))
    'month'
    """
    return next((unit for most, unit in _UNITS if last - first <= most), "year")


def measure_drift(name: str, labels: Sequence[str], counts: Mapping[tuple[int, int], int], periods: int) -> Drift:
    """The change of a column. `counts` are rows by bin and period; the last label is that of the bin of nulls, -1."""
    table = np.zeros((periods, len(labels)))
    for (place, period), rows in counts.items():
        if 0 <= period < periods:
            table[period, place] += rows  # -1 is the last bin
    totals = table.sum(axis=1, keepdims=True)
    shares = table / np.maximum(totals, 1)
    # as many rows as possible on either side, by whole periods
    reached = np.cumsum(totals) / max(totals.sum(), 1)
    middle = int(np.argmin(np.abs(reached - 0.5))) + 1
    stability = stability_index(table[:middle].sum(axis=0), table[middle:].sum(axis=0)) if middle < periods else 0.0
    return Drift(name, stability, tuple(labels), tuple(tuple(map(float, row)) for row in shares))


def stability_index(one: np.ndarray, other: np.ndarray) -> float:
    """Population stability index of two counts by bin, with half a row in every bin, less what chance alone gives.

    >>> stability_index(np.array([50, 50]), np.array([50, 50]))
    0.0
    >>> round(stability_index(np.array([9000, 1000]), np.array([5000, 5000])), 2)
    0.88
    """
    used = (one + other) > 0
    if not one.sum() or not other.sum() or not used.any():
        return 0.0
    p, q = (one[used] + 0.5), (other[used] + 0.5)
    by_chance = (used.sum() - 1) * (1 / p.sum() + 1 / q.sum())
    p, q = p / p.sum(), q / q.sum()
    return max(0.0, float(((p - q) * np.log(p / q)).sum() - by_chance))
