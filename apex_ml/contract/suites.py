"""The Great Expectations suites, described as data. Nothing of Great Expectations is imported here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from decimal import Decimal
from keyword import iskeyword
from typing import Any

from apex_ml.contract.column_types import Bound, Level, level_of
from apex_ml.contract.conditions import (
    AS_OF,
    Condition,
    HoldsNul,
    IsNull,
    NotAllowedWith,
    NotIn,
    NotMatching,
    OnOrAfter,
    Outside,
    as_of_columns,
    as_of_parameter,
    column_rules,
    row_rules,
)
from apex_ml.contract.model import Contract
from apex_ml.contract.per_use import Severity, Use


@dataclass(frozen=True)
class Expectation:
    """One expectation: its type and arguments in Great Expectations' own words, and how grave a failure is."""

    type: str
    severity: Severity
    kwargs: dict[str, Any] = field(default_factory=dict)
    rule: str = ""
    """The columns and the text of the contract's rule, as reports of row checks and answers to requests have them."""


def suite_name(contract: Contract, use: Use) -> str:
    """Name of suite, validation definition and checkpoint of a use."""
    return f"{contract.name}_{use}"


def _bound(value: Bound | None) -> float | str | None:
    """A bound as the frame has its values: an instant in UTC, a decimal as a float."""
    if isinstance(value, datetime):
        return (value if value.tzinfo is None else value.astimezone(UTC)).isoformat()
    if isinstance(value, date):
        return f"{value.isoformat()}T00:00:00"
    return float(value) if isinstance(value, Decimal) else value


def _member(value: Level) -> float | str:
    """A level as the frame has it: of a day or a time its text."""
    if isinstance(value, date):
        return level_of(value)
    return float(value) if isinstance(value, Decimal) else value


def columns_as_text(contract: Contract) -> frozenset[str]:
    """The columns of days and times that the frame holds as text, because pandas finds no day in a set."""
    columns = contract.columns.values()
    return frozenset(c.name for c in columns if c.type in ("date", "timestamp") and c.domain is not None)


def _with_texts(condition: Condition) -> Condition:
    """A condition on a column that the frame holds as text, which sorts as the times do."""
    if not isinstance(condition, Outside):
        return condition
    low, high = (level_of(bound) if isinstance(bound, date) else bound for bound in (condition.low, condition.high))
    return replace(condition, low=low, high=high)  # type: ignore[arg-type]


def _pandas_column(column: str) -> str:
    """A column in a query of pandas, which needs other names than identifiers between backticks."""
    return column if column.isidentifier() and not iskeyword(column) else f"`{column.replace('`', '``')}`"


def _text(value: str) -> str:
    """A text in a query of pandas, a literal of Python."""
    return repr(value) if '"' in value or "\\" in value or not value.isprintable() else f'"{value}"'


def _flags_first(regex: str) -> tuple[str, str]:
    """The flags that hold for a whole regular expression, as (?i), and the rest.

    >>> _flags_first("(?i)a(?i:b)"), _flags_first("a")
    (('(?i)', 'a(?i:b)'), ('', 'a'))
    """
    match = re.match(r"\(\?[a-z]+\)", regex)
    return (match[0], regex[match.end() :]) if match else ("", regex)


def expectations(contract: Contract, use: Use) -> list[Expectation]:
    """The expectations for an accepted batch: the row rules again, by an independent engine, and rules of the batch.

    The run's point in time is given at run time, as the parameters of :func:`as_of_parameters`.
    """
    suite = [
        Expectation("expect_table_row_count_to_be_between", "error", {"min_value": 1}),
        Expectation(
            "expect_table_columns_to_match_set", "error", {"column_set": list(contract.columns), "exact_match": True}
        ),
    ]
    as_text = columns_as_text(contract)
    rules = [rule for column in contract.columns.values() for rule in column_rules(column, use)]
    for rule in [*rules, *row_rules(contract, use, AS_OF)]:
        label = f"{rule.label}: {rule.text}"
        broken = _with_texts(rule.broken) if as_text.issuperset(rule.columns) else rule.broken
        suite += [Expectation(kind, rule.severity, kwargs, label) for kind, kwargs in _expected(broken)]
    return suite


def as_of_parameters(contract: Contract, as_of: date) -> dict[str, Any]:
    """The run's point in time as each of the columns that is compared with it has it."""
    of_columns = {as_of_parameter(column): _bound(column.bound(as_of)) for column in as_of_columns(contract)}
    return {AS_OF: _bound(as_of), **of_columns}


def _expected(broken: Condition) -> Iterator[tuple[str, dict[str, Any]]]:
    """The expectations that fail where a condition is true, as (type, arguments)."""
    match broken:
        case IsNull(column):
            yield "expect_column_values_to_not_be_null", {"column": column}
        case HoldsNul():
            return  # a row check alone
        case NotIn(column, levels):
            yield "expect_column_values_to_be_in_set", {"column": column, "value_set": list(map(_member, levels))}
        case NotMatching(column, regex):
            # \Z, as $ would accept a line break at the end; flags must come first
            flags, rest = _flags_first(regex)
            yield "expect_column_values_to_match_regex", {"column": column, "regex": rf"{flags}^(?:{rest})\Z"}
        case Outside(column, low, high):
            yield from _within(column, low, high)
        case OnOrAfter(column, day):
            limit = {"$PARAMETER": day} if isinstance(day, str) else _bound(day)
            bounds = {"column": column, "max_value": limit, "strict_max": True}
            yield "expect_column_max_to_be_between", bounds
        case NotAllowedWith(first, second, allowed):
            # one conditional set a value: the expectation on pairs walks the rows in Python, over a minute a million
            for value, among in allowed:
                condition = {
                    "row_condition": f"{_pandas_column(first)} == {_text(value)}",
                    "condition_parser": "pandas",
                }
                within = {"column": second, "value_set": list(among), **condition}
                yield "expect_column_values_to_be_in_set", within


def _within(column: str, low: Bound | None, high: Bound | None) -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(low, date | str) or isinstance(high, date | str):
        # by the extremes: the expectation on values compares each date in Python
        for extreme, limit in (("min", low), ("max", high)):
            if limit is not None:
                bound = {"column": column, f"{extreme}_value": _bound(limit)}
                yield f"expect_column_{extreme}_to_be_between", bound
        return
    bounds = {name: _bound(limit) for name, limit in (("min_value", low), ("max_value", high)) if limit is not None}
    yield "expect_column_values_to_be_between", {"column": column, **bounds}
