"""The row rules of a contract as conditions, from which every check is compiled.

A condition is true for a row that violates the rule. Three compilers read it: :mod:`apex_ml.sql.conditions` for files,
:mod:`apex_ml.contract.predicates` for requests, :mod:`apex_ml.contract.suites` for Great Expectations. For a null only
the condition :class:`IsNull` is true.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from typing import Literal

from apex_ml.contract.checks import PatternCheck, RangeCheck
from apex_ml.contract.column_types import Bound, Level
from apex_ml.contract.columns import Column
from apex_ml.contract.model import Contract
from apex_ml.contract.per_use import Severity, Use
from apex_ml.contract.rules import BeforeAsOfRule, PairsRule
from apex_ml.text import NO_NUL

AS_OF: Literal["as_of"] = "as_of"
"""Placeholder for a run's point in time, which is not known yet."""


@dataclass(frozen=True)
class IsNull:
    """The value is missing."""

    column: str


@dataclass(frozen=True)
class HoldsNul:
    """A text contains a NUL character."""

    column: str


@dataclass(frozen=True)
class NotIn:
    """A value is not one of the allowed ones."""

    column: str
    values: tuple[Level, ...]


@dataclass(frozen=True)
class NotMatching:
    """A text does not fully match a regular expression."""

    column: str
    regex: str


@dataclass(frozen=True)
class Outside:
    """A number, a day or a time is outside two bounds, both included. A bound of None is no limit."""

    column: str
    low: Bound | None
    high: Bound | None


@dataclass(frozen=True)
class OnOrAfter:
    """A day or a time is not before another. A text names the parameter of the run that gives the other one."""

    column: str
    day: date | str


@dataclass(frozen=True)
class NotAllowedWith:
    """The value of the first column does not allow the value of the second column.

    A value of the first column that is not in `allowed` allows everything, because another rule reports it.
    """

    first: str
    second: str
    allowed: tuple[tuple[str, tuple[str, ...]], ...]


Condition = IsNull | HoldsNul | NotIn | NotMatching | Outside | OnOrAfter | NotAllowedWith


@dataclass(frozen=True)
class RowRule:
    """One rule for a row. `broken` is true for a row that violates it; `text` is its text in messages."""

    columns: tuple[str, ...]
    text: str
    severity: Severity
    broken: Condition

    @property
    def label(self) -> str:
        """The names of the columns in reports."""
        return " + ".join(self.columns)


NOT_NULL = "not_null"


def column_rules(column: Column, use: Use) -> Iterator[RowRule]:
    """The rules for the normalised values of one column, in the order of the reports."""
    of = (column.name,)
    if column.type == "string" and column.role == "entity" and not passes_only_normal_forms(column):
        yield RowRule(of, NO_NUL, "error", HoldsNul(column.name))
    if not column.nullable.on(use):
        yield RowRule(of, NOT_NULL, "error", IsNull(column.name))
    if column.domain is not None:
        levels = column.domain.shown
        closed = column.domain.closed.on(use)
        text = f"domain: one of {', '.join(levels)}" + ("" if closed else "; taken as unknown")
        yield RowRule(of, text, "error" if closed else "warning", NotIn(column.name, column.level_values))
    for check in column.checks:
        severity = check.severity.on(use)
        if isinstance(check, PatternCheck):
            yield RowRule(of, f"pattern: {check.regex}", severity, NotMatching(column.name, check.regex))
        else:
            broken = Outside(column.name, column.bound(check.min), column.bound(check.max))
            yield RowRule(of, range_text(check), severity, broken)


def row_rules(contract: Contract, use: Use, as_of: date | Literal["as_of"] | None) -> Iterator[RowRule]:
    """The rules between columns and, with `as_of`, the rules for dates before the run's point in time."""
    for rule in contract.rules:
        severity = rule.severity.on(use)
        if isinstance(rule, PairsRule):
            broken = NotAllowedWith(*rule.columns, tuple(rule.allowed.items()))
            yield RowRule(rule.columns, f"{rule.name}: {rule.description}", severity, broken)
        elif isinstance(rule, BeforeAsOfRule) and as_of is not None:
            (when,) = rule.columns
            column = contract.columns[when]
            day = as_of_parameter(column) if isinstance(as_of, str) else column.bound(as_of)
            assert isinstance(day, date | str)
            yield RowRule(rule.columns, f"{rule.name}: before {as_of}", severity, OnOrAfter(when, day))


def as_of_parameter(column: Column) -> str:
    """The name of the parameter that gives a run's point in time for a column: the first instant of a day differs.

    >>> as_of_parameter(Column(name="day", description="Day.", type="date", role="timestamp"))
    'as_of'
    """
    zone = column.timezone if column.is_instant else None
    return AS_OF if zone is None else f"{AS_OF}_{re.sub('[^A-Za-z0-9]', '_', zone)}"


def as_of_columns(contract: Contract) -> Iterator[Column]:
    """The columns whose values a rule compares with a run's point in time."""
    for rule in contract.rules:
        if isinstance(rule, BeforeAsOfRule):
            yield contract.columns[rule.columns[0]]


def range_text(check: RangeCheck) -> str:
    """A range as text."""
    bounds = [f">= {check.min}"] if check.min is not None else []
    bounds += [f"<= {check.max}"] if check.max is not None else []
    return "range: " + " and ".join(bounds)


def trims_or_uppers(column: Column) -> bool:
    """Whether `normalise` only trims a column or makes it upper case."""
    return all(step in ("trim", "upper") for step in column.normalise)


def passes_only_normal_forms(column: Column) -> bool:
    """Whether a pattern matches only trimmed upper-case text: all its characters are between '!' and '`'."""
    return trims_or_uppers(column) and any(
        isinstance(check, PatternCheck)
        and re.fullmatch("[!-`]+", check.regex)
        and not set(check.regex) & set(".\\^$")
        and not re.fullmatch(check.regex, "")
        for check in column.checks
    )
