"""The ranges that a new contract checks, with margins around what was observed."""

from __future__ import annotations

from datetime import date
from math import ceil, floor, isfinite, log10
from typing import Any

from apex_ml.contract.checks import EXACT_INTEGERS
from apex_ml.core.table_profile.values import ColumnProfile


def date_checks(column: ColumnProfile) -> list[dict[str, Any]]:
    """From the first of January of the year before the earliest day, up to the end of the century at least.

    A day far from the others is outside: it would be the newest row of all, or stretch the parts of the split.
    """
    if (times := column.times) is None:
        return []
    earliest = times.quantiles[0] if times.far_first else times.first
    latest = times.quantiles[-1] if times.far_last else times.last
    first, last = max(earliest.year - 1, 1), max(2100, min(latest.year + 50, 9999))
    return [{"rule": "range", "min": date(first, 1, 1), "max": date(last, 1, 1)}]


def number_checks(column: ColumnProfile) -> list[dict[str, Any]]:
    """No negative value where there was none; a warning beyond the observed range and as much again on either side."""
    numbers = column.numbers
    if numbers is None:
        return []
    span = max(numbers.high - numbers.low, abs(numbers.high), 1.0)
    checks: list[dict[str, Any]] = []
    if numbers.low >= 0:
        checks.append({"rule": "range", "min": 0})
        warned = {"max": rounded_out(numbers.high + span, up=True)}
    else:
        warned = {
            "min": rounded_out(numbers.low - span, up=False),
            "max": rounded_out(numbers.high + span, up=True),
        }
    if all(isfinite(bound) and abs(bound) <= EXACT_INTEGERS for bound in warned.values()):
        checks.append({"rule": "range", **warned, "severity": "warning"})
    return checks


def rounded_out(value: float, *, up: bool) -> float | int:
    """A bound with two digits that is not inside of the value.

    >>> rounded_out(732.76, up=True), rounded_out(-15.2, up=False), rounded_out(0.0123, up=True)
    (740, -16, 0.013)
    """
    if not value or not isfinite(value):
        return value if value else 0
    power = 10.0 ** (floor(log10(abs(value))) - 1)
    bound = round((ceil if up else floor)(value / power) * power, 12)
    if not isfinite(bound):
        return bound
    return int(bound) if bound == int(bound) else bound
