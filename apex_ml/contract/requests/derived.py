"""Derived columns of a request: an engine computes their values as those of files, and here they are checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from apex_ml.contract.columns import Column
from apex_ml.contract.conditions import NOT_NULL, IsNull, column_rules
from apex_ml.contract.expressions import shown_expression
from apex_ml.contract.model import Contract
from apex_ml.contract.predicates import predicate
from apex_ml.contract.requests.values import Cell


class Computed(NamedTuple):
    """A value as a drop's row would hold it, and the rule that a row breaks for which it cannot be computed."""

    value: Any
    fault: str | None = None


ComputeDerived = Callable[[Mapping[str, Sequence[Any]]], Mapping[str, Sequence[Computed]]]
"""Computes every derived column from the values of the other columns, all of one length."""


class DerivedReader:
    """Checks the computed values of one derived column."""

    def __init__(self, contract: Contract, column: Column) -> None:
        expression = column.expression
        assert expression is not None  # a derived column has one
        self.sources = tuple(expression.columns(contract.columns).values())
        self.rule = f"computed from {', '.join(self.sources)}: {shown_expression(column.derive)}"
        """The rule that a request breaks which holds the column."""
        self._nullable = column.nullable.score
        rules = [rule for rule in column_rules(column, "score") if not isinstance(rule.broken, IsNull)]
        self._rules = [(predicate(rule.broken), rule.severity, rule.text) for rule in rules]

    def check(self, computed: Computed) -> Cell:
        """A computed value with the rules that it breaks."""
        if computed.fault is not None:
            return Cell(None, computed.fault)
        if computed.value is None:
            return Cell(None) if self._nullable else Cell(None, NOT_NULL)
        errors: list[str] = []
        warnings: list[str] = []
        for is_broken, severity, text in self._rules:
            if is_broken(computed.value):
                (errors if severity == "error" else warnings).append(text)
        return Cell(computed.value, "; ".join(errors) or None, "; ".join(warnings) or None)

    def remedy(self) -> str:
        """What to do about a rule that a computed value breaks."""
        return f"correct {', '.join(self.sources)}, from which it is computed"
