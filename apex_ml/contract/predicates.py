"""Conditions compiled to Python, for a few rows: starting a query takes longer than answering a request."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

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

Predicate = Callable[..., bool]
"""A function of the values of the rule's columns, in row. True means that they violate the rule."""


def predicate(condition: Condition) -> Predicate:
    """Compile a condition to a function of the values of its columns."""
    if isinstance(condition, IsNull):
        return lambda value: value is None
    if isinstance(condition, NotAllowedWith):
        allowed = {first: frozenset(seconds) for first, seconds in condition.allowed}
        return lambda first, second: second is not None and first in allowed and second not in allowed[first]
    test = _of_a_value(condition)
    return lambda value: value is not None and test(value)


def _of_a_value(condition: HoldsNul | NotIn | NotMatching | Outside | OnOrAfter) -> Callable[[Any], bool]:
    match condition:
        case HoldsNul():
            return lambda value: "\0" in value
        case NotIn(_, values):
            known = frozenset(values)
            return lambda value: value not in known
        case NotMatching(_, regex):
            matches = re.compile(regex, re.ASCII).fullmatch
            return lambda value: matches(value) is None
        case Outside(_, low, high):
            return lambda value: (low is not None and value < low) or (high is not None and value > high)
        case OnOrAfter(_, day):
            return lambda value: bool(value >= day)
