"""Options of a development."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from apex_ml.contract.options import DecisionName
from apex_ml.core.decision import Costs
from apex_ml.core.search import Budget
from apex_ml.core.selection import FeatureRules


@dataclass(frozen=True)
class Options:
    """Options of a development. The best contender on validation wins; of equal ones the first in the list.

    A feature that alone removes the share `suspicious_gain` of the class prior's log loss is a leak and raises an
    error; with None it is only reported. `rules` replace the noise test of the feature selection. `fixed` holds
    parameters of candidates that are used without a search. With `search_folds` above 1 the search scores parameters
    by rolling-origin cross-validation inside the training part instead of on validation.
    """

    contenders: tuple[str, ...] = ("xgboost",)
    selection: str = "noise"
    """``noise``, ``none``, or the name of the `rules`."""
    rules: FeatureRules | None = None
    suspicious_gain: float | None = None
    budget: Budget = field(default_factory=lambda: Budget(0))
    search_folds: int = 1
    fixed: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    decision: DecisionName = "most_probable"
    costs: Costs = ()
    """Costs of errors, for the decision ``cost``."""
    positive: int | None = None
    """Of two classes the index of the positive one."""
    features: frozenset[str] | None = None
    """Names of the features that are used without a selection; with None they are selected."""
    of_entity: frozenset[str] = frozenset()
    """Features made from the history of the entity, which a model of few entities may know them by."""
    class_weights: Literal["none", "balanced"] = "none"
    early_stopping_rounds: int = 30
    device: Literal["cpu", "cuda"] = "cpu"
    seed: int = 42
    threads: int = 2
