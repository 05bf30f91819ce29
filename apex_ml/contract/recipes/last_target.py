"""Target of the latest earlier row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import pyarrow as pa

from apex_ml.contract.feature_column import FeatureColumn
from apex_ml.contract.history_state import LATEST_TARGET
from apex_ml.contract.names import last_name
from apex_ml.contract.recipes.interface import HistoryFeature, Recipe, RowStates

if TYPE_CHECKING:
    from apex_ml.contract.model import Contract


class LastTargetRecipe(Recipe):
    """Target of the latest earlier row. Of several rows on one day it is the last level of the domain."""

    recipe: Literal["last_target"]

    def features(self, contract: Contract) -> tuple[HistoryFeature, ...]:
        """One categorical feature, null for an entity without history."""
        levels = pa.array([None, *contract.classes], pa.string())

        def values(rows: RowStates) -> pa.Array:
            return levels.take(pa.array(rows.integers(LATEST_TARGET)))

        column = FeatureColumn(last_name(contract.target), "categorical", contract.classes)
        return (HistoryFeature(column, (LATEST_TARGET,), values),)
