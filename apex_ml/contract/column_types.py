"""The types of columns, and the levels of a domain as text and as values of the column's type."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from decimal import Context, Decimal, Inexact, InvalidOperation
from typing import Any, Literal

import pyarrow as pa

ColumnType = Literal["string", "double", "int64", "date", "boolean", "decimal", "timestamp"]
Level = str | int | bool | date | Decimal
"""A level as a value of its column's type."""
Bound = float | Decimal | date
"""A bound of a range; a date may be a datetime."""

LEVEL_TYPES = ("string", "int64", "boolean", "decimal", "date")
"""Types whose values have one text, so that they can be levels and classes."""
NUMBERS = ("double", "int64", "decimal")
DECIMAL_DIGITS = 38
"""Digits that a decimal column holds, of which `decimals` are behind the point."""
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


def level_text(kind: str, decimals: int | None, value: Any) -> Any:
    """A level of a file as the text that the values of its column have; one of another type as it is written.

    >>> level_text("boolean", None, True), level_text("int64", None, 3), level_text("decimal", 2, 1.5)
    ('true', '3', '1.50')
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
    return str(value) if isinstance(value, int | float | date) else value


def level_value(kind: ColumnType, decimals: int | None, text: str) -> Level | None:
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
    except (ValueError, InvalidOperation):
        return None
    return value if value is not None and level_of(value) == text else None


def level_of(value: Level) -> str:
    """The text of a level, as DuckDB and Arrow give it, too."""
    if isinstance(value, bool):
        return TRUTH[value]
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
    kind, decimals = column["type"], column.get("decimals")
    decimals = decimals if isinstance(decimals, int) else None
    if isinstance(levels, dict):
        values = tuple(_written_value(kind, decimals, text) for text in levels)
        return {**column, "domain": {**domain, "levels": tuple(levels.values()), "values": values}}
    return {**column, "domain": {**domain, "levels": tuple(level_text(kind, decimals, v) for v in levels)}}


def _written_value(kind: str, decimals: int | None, text: str) -> str:
    """The text of a value that is written as a key: a decimal with all its decimals."""
    try:
        return str(level_text(kind, decimals, float(text))) if kind == "decimal" else text
    except ValueError:
        return text
