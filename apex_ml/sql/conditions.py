"""Conditions of rules compiled to DuckDB SQL. A condition may be null, which means false."""

from __future__ import annotations

from collections.abc import Mapping

from apex_ml.contract.column_types import Level
from apex_ml.contract.conditions import (
    Condition,
    HoldsNul,
    IsNull,
    NotAllowedWith,
    NotIn,
    NotMatching,
    OnOrAfter,
    Outside,
)
from apex_ml.sql.quote import literal, literals


def condition_sql(condition: Condition, values: Mapping[str, str]) -> str:
    """SQL that is true for a row that breaks a rule; `values` are the SQL of the columns' values."""
    match condition:
        case IsNull(column):
            return f"{values[column]} IS NULL"
        case HoldsNul(column):
            return f"contains({values[column]}, chr(0))"
        case NotIn(column, levels):
            return f"{values[column]} NOT IN ({', '.join(map(_level, levels))})"
        case NotMatching(column, regex):
            return f"NOT regexp_full_match({values[column]}, {literal(regex)})"
        case Outside(column, low, high):
            bounds = [f"{values[column]} < {literal(low)}"] if low is not None else []
            bounds += [f"{values[column]} > {literal(high)}"] if high is not None else []
            return " OR ".join(bounds)
        case OnOrAfter(column, day):
            return f"{values[column]} >= {literal(day)}"
        case NotAllowedWith(first, second, allowed):
            return " OR ".join(
                f"({values[first]} = {literal(value)} AND {values[second]} NOT IN ({literals(among)}))"
                for value, among in allowed
            )


def _level(value: Level) -> str:
    # DuckDB reads digits as a decimal, which is not always the nearest double
    return f"CAST({literal(repr(value))} AS DOUBLE)" if isinstance(value, float) else literal(value)
