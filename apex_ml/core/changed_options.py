"""What a model keeps from its training although the pipeline's file says something else today."""

from __future__ import annotations

from collections.abc import Iterator

from apex_ml.contract.costs import cost_matrix
from apex_ml.contract.model import Contract
from apex_ml.contract.options import ModelOptions
from apex_ml.core.decision import Costs
from apex_ml.core.estimator import Model
from apex_ml.core.features import feature_columns


def changed_options(contract: Contract, options: ModelOptions, model: Model) -> tuple[str, ...]:
    """The options of the file that are others than in the training of a model, which keeps its own."""
    return (*_costs(contract, options, model), *_encodings(contract, model))


def _costs(contract: Contract, options: ModelOptions, model: Model) -> Iterator[str]:
    now = _of_classes(contract, model, cost_matrix(contract, options))
    if model.costs and not now:
        yield f"it chooses the class with the lowest expected cost, and model.decision is {options.decision}"
    elif now and not model.costs:
        yield "it does not choose the class by costs, and model.decision is cost"
    for actual, before, after in zip(model.classes, model.costs, now, strict=False):
        for predicted, old, new in zip(model.classes, before, after, strict=True):
            if old != new:
                yield f"model.costs: {actual} predicted as {predicted} costs {new:g}, and {old:g} in its training"


def _of_classes(contract: Contract, model: Model, costs: Costs) -> Costs:
    """The costs of the classes that a model has."""
    places = [contract.classes.index(level) for level in model.classes if level in contract.classes]
    return tuple(tuple(costs[row][column] for column in places) for row in places) if costs else ()


def _encodings(contract: Contract, model: Model) -> Iterator[str]:
    today = {column.name: column for column in feature_columns(contract)}
    for column in model.encoder.columns:
        now = today.get(column.name)
        if now is None or now.kind != "categorical":
            continue
        if column.encoding != now.encoding:
            yield f"{column.name}: encoding is {now.encoding}, and {column.encoding} in its training"
        if column.min_rows != now.min_rows:
            rows, before = now.min_rows or "none", column.min_rows or "none"
            yield f"{column.name}: min_level_rows is {rows}, and {before} in its training"
