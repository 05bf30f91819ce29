"""Number, share, duration and time formats of the Apex page."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

MISSING = "–"
UNIT_EFFECT = 10
"""From this size on an effect is shown without decimals."""


def number(value: float | None) -> str:
    """A count with separators.

    >>> number(1250000), number(None)
    ('1,250,000', '–')
    """
    return MISSING if value is None else f"{value:,.0f}"


def decimal(value: float | None, places: int = 4, sign: bool = False) -> str:
    """A number with a fixed count of decimals.

    >>> decimal(0.89351), decimal(0.0012, sign=True), decimal(float("nan"))
    ('0.8935', '+0.0012', '–')
    """
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{value:{'+' if sign else ''}.{places}f}".replace("-", "−")


def percent(value: float | None, places: int = 1) -> str:
    """A share in percent.

    >>> percent(0.1234)
    '12.3 %'
    """
    return MISSING if value is None or not math.isfinite(value) else f"{100 * value:.{places}f} %"


def duration(milliseconds: float | None) -> str:
    """A duration in its unit.

    >>> [duration(ms) for ms in (812.3, 2410, 185_000, 0.5)]
    ['812 ms', '2.4 s', '3.1 min', '0.5 ms']
    """
    if milliseconds is None:
        return MISSING
    if milliseconds < 1000:
        return f"{milliseconds:.{0 if milliseconds >= 10 else 1}f} ms"
    seconds = milliseconds / 1000
    return f"{seconds:.1f} s" if seconds < 60 else f"{seconds / 60:.1f} min"


def age(span: timedelta | None) -> str:
    """A span in its largest unit.

    >>> age(timedelta(days=3, hours=5)), age(timedelta(minutes=1)), age(timedelta(seconds=5)), age(timedelta(hours=30))
    ('3 days', '1 minute', '5 seconds', '30 hours')
    """
    if span is None:
        return MISSING
    seconds = span.total_seconds()
    for unit, length, least in (("day", 86400, 2), ("hour", 3600, 2), ("minute", 60, 1), ("second", 1, 1)):
        if seconds >= least * length:
            count = int(seconds // length)
            return f"{count} {unit}{'' if count == 1 else 's'}"
    return "0 seconds"


def when(value: datetime | None, seconds: bool = False) -> str:
    """A moment in UTC."""
    return (
        MISSING
        if value is None
        else value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S" if seconds else "%Y-%m-%d %H:%M")
    )


def effect(value: float | None) -> str:
    """An effect size in few characters.

    >>> effect(0.0312), effect(100.005), effect(None)
    ('0.03', '100', '·')
    """
    if value is None or not math.isfinite(value):
        return "·"
    return decimal(value, 2 if value < UNIT_EFFECT else 0)
