"""The Great Expectations suites, described as data. Nothing of Great Expectations is imported here."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import date
from keyword import iskeyword
from typing import Any

from apex_ml.contract.checks import PatternCheck, RangeCheck
from apex_ml.contract.model import Contract
from apex_ml.contract.per_use import Severity, Use
from apex_ml.contract.rules import BeforeAsOfRule, PairsRule


@dataclass(frozen=True)
class Expectation:
    """One expectation: its type and arguments in Great Expectations' own words, and how grave a failure is."""

    type: str
    severity: Severity
    kwargs: dict[str, Any] = field(default_factory=dict)


def suite_name(contract: Contract, use: Use) -> str:
    """Name of suite, validation definition and checkpoint of a use."""
    return f"{contract.name}_{use}"


def _bound(value: float | date | None) -> float | str | None:
    return f"{value.isoformat()}T00:00:00" if isinstance(value, date) else value


def _asked(column: str) -> str:
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
    found = re.match(r"\(\?[a-z]+\)", regex)
    return (found[0], regex[found.end() :]) if found else ("", regex)


def expectations(contract: Contract, use: Use) -> list[Expectation]:
    """What an accepted batch must be: the row rules once more, by an independent judge, and rules of the batch.

    The parameter ``as_of`` is given at run time.
    """
    found = [
        Expectation("expect_table_row_count_to_be_between", "error", {"min_value": 1}),
        Expectation(
            "expect_table_columns_to_match_set", "error", {"column_set": list(contract.columns), "exact_match": True}
        ),
    ]
    for column in contract.columns.values():
        named = {"column": column.name}
        if not column.nullable.on(use):
            found.append(Expectation("expect_column_values_to_not_be_null", "error", named))
        if column.domain is not None:
            severity: Severity = "error" if column.domain.closed.on(use) else "warning"
            values = {**named, "value_set": list(column.domain.levels)}
            found.append(Expectation("expect_column_values_to_be_in_set", severity, values))
        for check in column.checks:
            if isinstance(check, PatternCheck):
                # \Z, as $ would let a line break at the end pass; flags must stand first
                flags, regex = _flags_first(check.regex)
                pattern = {**named, "regex": rf"{flags}^(?:{regex})\Z"}
                found.append(Expectation("expect_column_values_to_match_regex", check.severity.on(use), pattern))
            elif isinstance(check, RangeCheck) and column.type == "date":
                # by the extremes: the expectation on values compares dates one by one in Python
                for extreme, limit in (("min", check.min), ("max", check.max)):
                    if limit is not None:
                        kind = f"expect_column_{extreme}_to_be_between"
                        bound = {**named, f"{extreme}_value": _bound(limit)}
                        found.append(Expectation(kind, check.severity.on(use), bound))
            elif isinstance(check, RangeCheck):
                bounds = {
                    k: _bound(v) for k, v in (("min_value", check.min), ("max_value", check.max)) if v is not None
                }
                found.append(
                    Expectation("expect_column_values_to_be_between", check.severity.on(use), {**named, **bounds})
                )
    for rule in contract.rules:
        if isinstance(rule, PairsRule):
            # one conditional set a value: the expectation on pairs walks the rows in Python, over a minute a million
            first, second = rule.columns
            for value, allowed in rule.allowed.items():
                condition = {"row_condition": f"{_asked(first)} == {_text(value)}", "condition_parser": "pandas"}
                within = {"column": second, "value_set": list(allowed), **condition}
                found.append(Expectation("expect_column_values_to_be_in_set", rule.severity.on(use), within))
        elif isinstance(rule, BeforeAsOfRule):
            newest = {"column": rule.columns[0], "max_value": {"$PARAMETER": "as_of"}, "strict_max": True}
            found.append(Expectation("expect_column_max_to_be_between", rule.severity.on(use), newest))
    return found
