"""The cost of a wrong prediction, as a pipeline's file states it. Airflow reads it, whose image has no Arrow."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date

from pydantic import Field

from apex_ml.contract.part import ContractPart, Place

ClassName = str | int | float | bool | date
"""A class as YAML has it: `true` and `3` need no quotes."""


class ErrorCost(ContractPart):
    """The cost of one kind of error."""

    actual: ClassName = Field(description="The true class of the row.")
    predicted: ClassName = Field(description="The class that is predicted in its place.")
    cost: float = Field(ge=0, description="Cost of one such row, in a unit of your own.")


def repeated_errors(costs: tuple[ErrorCost, ...]) -> Iterator[tuple[Place, str]]:
    """Entries that say nothing or contradict an earlier one, by their places below the costs."""
    known: set[tuple[ClassName, ClassName]] = set()
    for nr, error in enumerate(costs):
        pair = (error.actual, error.predicted)
        if error.actual == error.predicted:
            yield (nr,), f"{shown_class(error.actual)} predicted as itself is no error and costs nothing: remove it"
        elif pair in known:
            what = f"{shown_class(error.actual)} predicted as {shown_class(error.predicted)}"
            yield (nr,), f"the cost of {what} is stated twice: remove one"
        known.add(pair)


def shown_class(name: ClassName) -> str:
    """A class as the file has it.

    >>> shown_class(True), shown_class("LATE"), shown_class(3)
    ('true', 'LATE', '3')
    """
    return str(name).lower() if isinstance(name, bool) else str(name)
