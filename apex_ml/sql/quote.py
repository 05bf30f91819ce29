"""Quote names and values in SQL text, for DuckDB and Postgres alike."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime
from decimal import Decimal


def identifier(name: str) -> str:
    """Quote a name of a column, table or view.

    >>> identifier("order"), identifier('a "b"')
    ('"order"', '"a ""b\"""')
    """
    return '"' + name.replace('"', '""') + '"'


def identifiers(names: Iterable[str]) -> str:
    """Quote names and join them with commas."""
    return ", ".join(map(identifier, names))


def literal(value: str | float | Decimal | date) -> str:
    """Quote a value: a text, a truth value, a number, a day, a time without a zone or an instant.

    >>> literal("it's"), literal(0.5), literal(date(2024, 8, 23)), literal(True)
    ("'it''s'", '0.5', "DATE '2024-08-23'", 'true')
    >>> literal(Decimal("0.50")), literal(datetime(2024, 8, 23, 12)), literal(datetime(2024, 8, 23, tzinfo=UTC))
    ('0.50', "TIMESTAMP '2024-08-23 12:00:00'", "TIMESTAMPTZ '2024-08-23 00:00:00+00:00'")
    """
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, datetime):
        if value.tzinfo is None:
            return f"TIMESTAMP '{value.isoformat(' ')}'"
        return f"TIMESTAMPTZ '{value.astimezone(UTC).isoformat(' ')}'"
    return f"DATE '{value.isoformat()}'" if isinstance(value, date) else repr(value)


def literals(values: Iterable[str | float | Decimal | date]) -> str:
    """Quote values and join them with commas."""
    return ", ".join(map(literal, values))
