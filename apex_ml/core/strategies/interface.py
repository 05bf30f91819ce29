"""The interface of a split strategy: how to divide examples, and which features the model uses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pyarrow as pa

from apex_ml.contract.feature_column import FeatureColumn
from apex_ml.contract.model import Contract
from apex_ml.contract.roles import Role
from apex_ml.contract.split import Split
from apex_ml.core.estimator import Model
from apex_ml.core.features import feature_columns

if TYPE_CHECKING:
    from apex_ml.core.development import Options
    from apex_ml.core.model_evaluation import ComparedWay

MeasureSums = Callable[[Sequence[str]], pa.Table]
"""Sums measures, given by name, over all accepted rows of each entity: one row per entity."""


class SplitStrategy(ABC):
    """A way to divide examples. Each strategy has its own module or folder, with the instance in STRATEGY."""

    name: ClassVar[str]
    """Name in settings and commands, the same as the module's."""
    promotable: ClassVar[bool] = False
    """Whether a model of these parts can become champion. False if one part knows the future of another."""

    needs: ClassVar[tuple[Role, ...]] = ()
    """Roles of which its contract must have a column."""
    without_needs: ClassVar[str | None] = None
    """The strategy that takes its place where the contract lacks what it needs; None: it is refused."""

    def is_promotable(self, contract: Contract) -> bool:
        """Whether a model of these parts of a contract's rows can become champion."""
        return self.promotable

    @abstractmethod
    def assign(self, days: np.ndarray, target: np.ndarray, split: Split, seed: int) -> np.ndarray:
        """Part of each example as an index into PARTS, -1 for none, shape (n,); from its day and class, (n,) each."""

    def assign_rows(
        self, days: np.ndarray, target: np.ndarray, entities: np.ndarray, split: Split, seed: int
    ) -> np.ndarray:
        """The same for a strategy that also needs the entity of each example, (n,)."""
        return self.assign(days, target, split, seed)

    def columns(self, contract: Contract) -> tuple[FeatureColumn, ...]:
        """The features of a model of these parts."""
        return feature_columns(contract)

    def extend(self, contract: Contract, examples: pa.Table, sum_measures: MeasureSums) -> pa.Table:
        """The examples with the features that only this strategy has."""
        return examples

    def options(self, contract: Contract, options: Options) -> Options:
        """Options to develop a model of these parts, derived from the usual options."""
        return options

    def compare(
        self, model: Model, ours: Model, parts: Mapping[str, tuple[pa.Table, np.ndarray]]
    ) -> list[ComparedWay] | None:
        """Rows that compare the model with one of the contract's features; None where there is nothing to compare."""
        return None

    @property
    def is_compared(self) -> bool:
        """Whether :meth:`compare` has rows, so that a model of the contract's features is needed too."""
        return type(self).compare is not SplitStrategy.compare
