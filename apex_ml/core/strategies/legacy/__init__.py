"""The random split, the features and the selection rules of the original project, for comparison.

It took each entity's last row, summed the measures over *all* of the entity's rows, the target row included, and
split at random. Both leak the target, so that such a model is never promoted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from apex_ml.contract.feature_column import FeatureColumn
from apex_ml.contract.model import Contract
from apex_ml.core.estimator import Model
from apex_ml.core.strategies.interface import MeasureSums
from apex_ml.core.strategies.legacy.comparison import compare
from apex_ml.core.strategies.legacy.features import (
    legacy_columns,
    legacy_examples,
    legacy_identifiers,
)
from apex_ml.core.strategies.legacy.rules import LegacyRules
from apex_ml.core.strategies.stratified_random import StratifiedRandom

if TYPE_CHECKING:
    from apex_ml.core.development import Options
    from apex_ml.core.model_evaluation import ComparedWay


class Legacy(StratifiedRandom):
    """The original project's features and the contract's features, on random parts."""

    name = "legacy"
    needs = ("entity", "timestamp")

    def columns(self, contract: Contract) -> tuple[FeatureColumn, ...]:
        """Attributes, sums of measures, two parts of the date."""
        return legacy_columns(contract)

    def extend(self, contract: Contract, examples: pa.Table, sum_measures: MeasureSums) -> pa.Table:
        """Add the original features. The contract's features stay, so that both are compared on the same rows."""
        return legacy_examples(contract, examples, sum_measures(contract.named("measure")))

    def options(self, contract: Contract, options: Options) -> Options:
        """The original rules and balanced weights, without the check for leaks."""
        rules = partial(LegacyRules().evaluate, identifiers=legacy_identifiers(contract))
        return replace(options, selection=self.name, rules=rules, class_weights="balanced", suspicious_gain=None)

    def compare(self, model: Model, ours: Model, parts: Mapping[str, tuple[pa.Table, np.ndarray]]) -> list[ComparedWay]:
        """Rows for the original model, the same model corrected, and the model of the contract's features."""
        return compare(model, ours, parts)


STRATEGY = Legacy()
