"""Bins of a column: how its values are drawn, compared over time, and compared with a target."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from math import floor, isfinite, log10

MAX_BINS = 12
"""Bins of numbers and times, about."""
MAX_LEVELS = 12
"""Levels of a text with a bin of their own."""
OTHERS = "others"
MISSING = "null"


def number_edges(low: float, high: float, whole: bool) -> tuple[float, ...]:
    """Round numbers between two bounds, which are inside the first and the last bin.

    >>> number_edges(0, 100, True)
    (10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 100.0)
    >>> number_edges(3, 3, True), number_edges(0.12, 0.35, False)[:3]
    ((), (0.14, 0.16, 0.18))
    """
    span = high - low
    if not (isfinite(span) and span > 0):
        return ()
    power = 10.0 ** floor(log10(span / MAX_BINS))
    step = next(s for s in (power, 2 * power, 5 * power, 10 * power) if span / s <= MAX_BINS)
    step = max(step, 1.0) if whole else step
    first = floor(low / step) + 1
    edges = [round((first + n) * step, 12) for n in range(MAX_BINS + 1)]
    return tuple(dict.fromkeys(edge for edge in edges if low < edge <= high))


def time_edges(first: datetime, last: datetime) -> tuple[datetime, ...]:
    """Moments that divide a time into equal parts of whole days, or of whole minutes when it is short."""
    unit = timedelta(days=1) if last - first >= timedelta(days=MAX_BINS) else timedelta(minutes=1)
    start = first.replace(hour=0, minute=0, second=0, microsecond=0) if unit.days else first
    step = -(-(last - start) // (MAX_BINS * unit)) * unit
    if not step:
        return ()
    return tuple(edge for n in range(1, MAX_BINS) if (edge := start + n * step) <= last)


def number_text(value: float) -> str:
    """A number for people.

    >>> number_text(1234567.0), number_text(0.12345678), number_text(12.5), number_text(1e12), number_text(-0.0)
    ('1,234,567', '0.1235', '12.5', '1e+12', '0')
    """
    if value == int(value) and abs(value) < 1e10 if isfinite(value) else False:
        return f"{int(value):,}"
    return f"{value:,.2f}".rstrip("0").rstrip(".") if 1000 <= abs(value) < 1e10 else f"{value:.4g}"


def time_text(moment: datetime) -> str:
    """A moment for people, without a time of day at midnight.

    >>> time_text(datetime(2024, 8, 23)), time_text(datetime(2024, 8, 23, 9, 30))
    ('2024-08-23', '2024-08-23 09:30')
    """
    midnight = (moment.hour, moment.minute, moment.second) == (0, 0, 0)
    return f"{moment:%Y-%m-%d}" if midnight else f"{moment:%Y-%m-%d %H:%M}"


def range_labels(edges: Sequence[str]) -> list[str]:
    """Labels of the bins between edges.

    >>> range_labels(["10", "20"])
    ['below 10', '10 to 20', '20 and more']
    """
    if not edges:
        return ["all"]
    return [f"below {edges[0]}", *(f"{a} to {b}" for a, b in pairwise(edges)), f"{edges[-1]} and more"]
