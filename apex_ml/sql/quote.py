"""Quote names and values in SQL text, for DuckDB and Postgres alike."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date


def identifier(name: str) -> str:
    """Quote a name of a column, table or view.

    >>> identifier("order"), identifier('a "b"')
    ('"order"', '"a ""b\"""')
    """
    return '"' + name.replace('"', '""') + '"'


def identifiers(names: Iterable[str]) -> str:
    """Quote names and join them with commas."""
    return ", ".join(map(identifier, names))


def literal(value: str | float | date) -> str:
    """Quote a value: a text, a number or a day.

    >>> literal("it's"), literal(0.5), literal(date(2024, 8, 23))
    ("'it''s'", '0.5', "DATE '2024-08-23'")
    """
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return f"DATE '{value.isoformat()}'" if isinstance(value, date) else repr(value)


def literals(values: Iterable[str | float | date]) -> str:
    """Quote values and join them with commas."""
    return ", ".join(map(literal, values))
