"""The classes that a pipeline's options name: the matrix of the costs of errors, and the positive class."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from apex_ml.contract.column_types import level_text
from apex_ml.contract.error_cost import ClassName, shown_class
from apex_ml.contract.model import Contract
from apex_ml.contract.options import ModelOptions
from apex_ml.contract.part import Place
from apex_ml.wording import did_you_mean

DEFAULT_COST = 1.0
"""Cost of an error that the file does not mention."""


def cost_matrix(contract: Contract, options: ModelOptions) -> tuple[tuple[float, ...], ...]:
    """Cost of each true class (row) that is predicted as each class (column); empty without `decision: cost`.

    A right prediction costs 0, an error that is not listed 1.
    """
    if options.decision != "cost":
        return ()
    classes = contract.classes
    costs = [[DEFAULT_COST * (actual != predicted) for predicted in classes] for actual in classes]
    for error in options.costs:
        actual, predicted = (classes.index(_text(contract, name)) for name in (error.actual, error.predicted))
        costs[actual][predicted] = float(error.cost)
    return tuple(map(tuple, costs))


def positive_class(contract: Contract, options: ModelOptions) -> int | None:
    """Index of the class that precision, recall and thresholds are about; None with more than two classes.

    It is the one that the file names, or else the last one.
    """
    if len(contract.classes) != 2:
        return None
    return 1 if options.positive is None else contract.classes.index(_text(contract, options.positive))


def class_faults(contract: Contract, options: ModelOptions) -> Iterator[tuple[Place, str]]:
    """Names in the options of the model that are no class of the contract, by their places in the file."""
    for nr, error in enumerate(options.costs):
        for key, name in (("actual", error.actual), ("predicted", error.predicted)):
            if _text(contract, name) not in contract.classes:
                yield ("model", "costs", nr, key), _no_class(contract, name)
    if options.positive is None:
        return
    if len(contract.classes) != 2:
        yield ("model", "positive"), f"the target has {len(contract.classes)} classes, not two: remove it"
    elif _text(contract, options.positive) not in contract.classes:
        yield ("model", "positive"), _no_class(contract, options.positive)


def _text(contract: Contract, name: ClassName) -> Any:
    target = contract.columns[contract.target]
    return level_text(target.type, target.decimals, name, target.timezone)


def _no_class(contract: Contract, name: ClassName) -> str:
    domain = contract.columns[contract.target].domain
    if domain is not None and domain.values is not None and (value := _text(contract, name)) in domain.values:
        named = domain.levels[domain.values.index(value)]
        return f"{shown_class(name)} is the value of the class {named}: write its name, {named}"
    if contract.columns[contract.target].type == "string" and not isinstance(name, str):
        return f"YAML reads it as {shown_class(name)}, which is no text: quote it"
    listed = ", ".join(contract.classes)
    hint = did_you_mean(shown_class(name), contract.classes)
    return f"{shown_class(name)} is no class of {contract.target}; there are {listed}{hint}"
