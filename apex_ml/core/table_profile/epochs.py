"""Whole numbers that may be times: seconds, or smaller units, since 1970."""

from __future__ import annotations

from datetime import UTC, datetime

from apex_ml.contract.expressions import column_reference
from apex_ml.core.table_profile.values import ColumnProfile

FIRST, LAST = 946_684_800, 2_524_608_000
"""Seconds of 2000-01-01 and 2050-01-01: other numbers are no times of rows."""
MIN_DIFFERENT = 20
UNITS = {"seconds": 1, "milliseconds": 1_000, "microseconds": 1_000_000, "nanoseconds": 1_000_000_000}


def epoch_note(column: ColumnProfile) -> str | None:
    """What a column of whole numbers may be, with the expression of a timestamp from it; None for other columns."""
    numbers = column.numbers
    if column.kind != "integer" or numbers is None or column.distinct < MIN_DIFFERENT:
        return None
    for unit, in_second in UNITS.items():
        low, high = numbers.low / in_second, numbers.high / in_second
        if low >= FIRST and high <= LAST:
            days = " to ".join(f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d}" for moment in (low, high))
            return (
                f"may be {unit} since 1970 ({days}). As the time of a row it needs a derived column of type timestamp:"
                f" derive: {_expression(column_reference(column.name), in_second)}"
            )
    return None


def _expression(name: str, in_second: int) -> str:
    """The timestamp of a number, in microseconds."""
    factor = 1_000_000 // in_second
    if factor > 1:
        return f"make_timestamp({name} * {factor})"
    return f"make_timestamp({name})" if factor else f"make_timestamp({name} // 1000)"
