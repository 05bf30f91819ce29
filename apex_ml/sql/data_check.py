"""Counts over checked rows of a file: DuckDB SQL."""

from __future__ import annotations

from apex_ml.sql.quote import identifier


def count_classes(query: str, target: str) -> str:
    """Rows by class as text, of the rows that a query returns. Rows without a class are left out."""
    column = identifier(target)
    return (
        f"SELECT CAST({column} AS VARCHAR) AS class, count(*) AS n FROM ({query}) WHERE {column} IS NOT NULL"
        " GROUP BY class"
    )
