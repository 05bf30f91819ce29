"""Share of each target level among earlier rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import pyarrow as pa
from pydantic import Field

from apex_ml.contract.encoded_names import class_labels
from apex_ml.contract.feature_column import FeatureColumn
from apex_ml.contract.history_state import ROW_COUNT, level_count
from apex_ml.contract.names import share_name
from apex_ml.contract.recipes.interface import HistoryFeature, RowStates, WindowedRecipe, numeric

if TYPE_CHECKING:
    from apex_ml.contract.model import Contract


class TargetShareRecipe(WindowedRecipe):
    """Share of each target level among earlier rows, smoothed towards equal shares by `smoothing` rows."""

    recipe: Literal["target_share"]
    smoothing: float = Field(gt=0)

    def features(self, contract: Contract) -> tuple[HistoryFeature, ...]:
        """One feature per class; equal shares for an entity without history."""
        return tuple(self._feature(contract, level, label) for level, label in class_labels(contract.classes).items())

    def _feature(self, contract: Contract, level: str, label: str) -> HistoryFeature:
        count, classes = level_count(contract, level), len(contract.classes)

        def values(rows: RowStates) -> pa.Array:
            smoothed = rows.integers(count) + self.smoothing / classes
            return numeric(smoothed / (rows.integers(ROW_COUNT) + self.smoothing))

        return HistoryFeature(FeatureColumn(share_name(label), "numeric"), (ROW_COUNT, count), values)
