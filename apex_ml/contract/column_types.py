"""The types of columns, and the levels of a domain as text and as values of the column's type."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, time
from decimal import Context, Decimal, Inexact, InvalidOperation
from math import isfinite
from typing import Any, Literal
from zoneinfo import ZoneInfo, available_timezones

import pyarrow as pa

ColumnType = Literal["string", "double", "int64", "date", "boolean", "decimal", "timestamp"]
Level = str | int | bool | float | date | Decimal
"""A level as a value of its column's type; a date may be a datetime."""
Bound = float | Decimal | date
"""A bound of a range; a date may be a datetime."""

LEVEL_TYPES = ("string", "int64", "boolean", "decimal", "date")
"""Types whose values have one text, so that they can be levels and classes."""
CLASS_TYPES = (*LEVEL_TYPES, "double", "timestamp")
"""Types of a target: its classes are compared as values, and have one text as well."""
NUMBERS = ("double", "int64", "decimal")
DECIMAL_DIGITS = 38
"""Digits that a decimal column holds, of which `decimals` are behind the point."""
MAX_WHOLE_NUMBER = 2**127
"""From here on the text of a whole float is its shortest digits and zeros, as the files' engine has no such integer."""
_EXACT = Context(prec=DECIMAL_DIGITS, traps=[Inexact, InvalidOperation])
TRUTH = {False: "false", True: "true"}
_ARROW = {
    "string": pa.string(),
    "double": pa.float64(),
    "int64": pa.int64(),
    "date": pa.date32(),
    "boolean": pa.bool_(),
}


def arrow_type_of(kind: ColumnType, decimals: int | None, timezone: str | None) -> pa.DataType:
    """Arrow type of a column. A timestamp has microseconds, and is an instant when its column names a time zone."""
    if kind == "decimal":
        return pa.decimal128(DECIMAL_DIGITS, decimals or 0)
    return pa.timestamp("us", timezone) if kind == "timestamp" else _ARROW[kind]


def number_text(value: float | Decimal) -> str:
    """A number, or a truth value, as the text that :func:`apex_ml.sql.file_types.number_text` gives it in a file.

    >>> [number_text(v) for v in (240, 240.0, -0.0, 0.5, 1e-07, 1e20, True, Decimal("240.00"))]
    ['240', '240', '0', '0.5', '0.0000001', '100000000000000000000', 'true', '240']
    """
    if isinstance(value, Decimal):
        text = format(value, "f")
        return text.rstrip("0").rstrip(".") if "." in text else text
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if value.is_integer() and abs(value) < MAX_WHOLE_NUMBER:
        return str(int(value))
    return format(Decimal(repr(value)), "f").removesuffix(".0")


def time_text(moment: datetime) -> str:
    """The text of a level of type timestamp: without a zone as it is, an instant in UTC.

    >>> time_text(datetime(2024, 12, 31, 12)), time_text(datetime(2024, 12, 31, 12, tzinfo=ZoneInfo("Europe/Madrid")))
    ('2024-12-31 12:00:00', '2024-12-31 11:00:00+00:00')
    """
    return (moment if moment.tzinfo is None else moment.astimezone(UTC)).isoformat(" ")


def _written_time(written: Any, timezone: str | None) -> Any:
    """A day or a time of a file as the text of a value; without a zone of its own it is on the clock of the column."""
    try:
        moment = datetime.fromisoformat(written) if isinstance(written, str) else written
    except ValueError:
        return written
    if not isinstance(moment, date):
        return str(moment)
    if not isinstance(moment, datetime):
        moment = datetime.combine(moment, time())
    if moment.tzinfo is None and timezone in available_timezones():
        moment = moment.replace(tzinfo=ZoneInfo(str(timezone)))
    return time_text(moment)


def level_text(kind: str, decimals: int | None, value: Any, timezone: str | None = None) -> Any:
    """A level of a file as the text that the values of its column have; one of another type as it is written.

    >>> level_text("boolean", None, True), level_text("int64", None, 3), level_text("decimal", 2, 1.5)
    ('true', '3', '1.50')
    >>> level_text("double", None, 2.0), level_text("timestamp", None, date(2024, 12, 31))
    ('2', '2024-12-31 00:00:00')
    >>> level_text("string", None, True), level_text("int64", None, "three")
    (True, 'three')
    """
    if kind == "string":
        return value
    if isinstance(value, bool):
        return TRUTH[value]
    if kind == "decimal" and isinstance(value, int | float):
        exact = exact_decimal(Decimal(repr(value)), decimals or 0)
        return repr(value) if exact is None else format(exact, "f")
    if kind == "double" and isinstance(value, int | float):
        return number_text(float(value))
    if kind == "timestamp":
        return _written_time(value, timezone)
    return str(value) if isinstance(value, int | float | date) else value


def level_value(kind: ColumnType, decimals: int | None, text: str, timezone: str | None = None) -> Level | None:
    """The value whose text is a level; None when a column of the type has no value with this text.

    >>> level_value("boolean", None, "true"), level_value("int64", None, "007"), level_value("decimal", 1, "2.5")
    (True, None, Decimal('2.5'))
    """
    value: Level | None = None
    try:
        if kind == "string":
            value = text
        elif kind == "boolean":
            value = {written: truth for truth, written in TRUTH.items()}.get(text)
        elif kind == "int64":
            value = int(text)
        elif kind == "decimal":
            value = exact_decimal(Decimal(text), decimals or 0)
        elif kind == "date":
            value = date.fromisoformat(text)
        elif kind == "double":
            value = float(text) if isfinite(float(text)) else None
        elif kind == "timestamp":
            moment = datetime.fromisoformat(text)
            value = moment if (moment.tzinfo is None) == (timezone is None) else None
    except (ValueError, InvalidOperation):
        return None
    return value if value is not None and level_of(value) == text else None


def level_of(value: Level) -> str:
    """The text of a level, as DuckDB and Arrow give it, too."""
    if isinstance(value, bool):
        return TRUTH[value]
    if isinstance(value, float):
        return number_text(value)
    if isinstance(value, datetime):
        return time_text(value)
    return format(value, "f") if isinstance(value, Decimal) else str(value)


def exact_decimal(value: Decimal, decimals: int) -> Decimal | None:
    """A number with a number of decimals; None when it has more of them, or too many digits.

    >>> exact_decimal(Decimal("1.5"), 2), exact_decimal(Decimal("1.555"), 2)
    (Decimal('1.50'), None)
    """
    if not value.is_finite() or value.adjusted() >= DECIMAL_DIGITS - decimals:
        return None
    try:
        exact = _EXACT.quantize(value, Decimal((0, (1,), -decimals)))
    except (Inexact, InvalidOperation):
        return None
    return exact or abs(exact)  # there is one zero


def levels_as_text(column: Any) -> Any:
    """A column as its file has it, with the levels of its domain as text where its type is not string.

    Of levels with names these are the levels, and `values` the texts of the values that have them.
    """
    if not isinstance(column, Mapping) or column.get("type") in ("string", None):
        return column
    domain = column.get("domain")
    if not isinstance(domain, Mapping) or not isinstance(levels := domain.get("levels"), tuple | dict):
        return column
    kind, decimals, timezone = column["type"], column.get("decimals"), column.get("timezone")
    decimals = decimals if isinstance(decimals, int) else None
    timezone = timezone if isinstance(timezone, str) else None
    if isinstance(levels, dict):
        values = tuple(_written_value(kind, decimals, text, timezone) for text in levels)
        return {**column, "domain": {**domain, "levels": tuple(levels.values()), "values": values}}
    return {**column, "domain": {**domain, "levels": tuple(level_text(kind, decimals, v, timezone) for v in levels)}}


def _written_value(kind: str, decimals: int | None, text: str, timezone: str | None) -> str:
    """The text of a value that is written as a key: a decimal with all its decimals, a time with its seconds."""
    try:
        if kind == "timestamp":
            return str(level_text(kind, None, text, timezone))
        return str(level_text(kind, decimals, float(text))) if kind in ("decimal", "double") else text
    except ValueError:
        return text
