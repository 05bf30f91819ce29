"""Share of each target level among earlier rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import pyarrow as pa
from pydantic import Field

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
        return tuple(self._feature(level, len(contract.classes)) for level in contract.classes)

    def _feature(self, level: str, classes: int) -> HistoryFeature:
        count = level_count(level)

        def values(rows: RowStates) -> pa.Array:
            smoothed = rows.integers(count) + self.smoothing / classes
            return numeric(smoothed / (rows.integers(ROW_COUNT) + self.smoothing))

        return HistoryFeature(FeatureColumn(share_name(level), "numeric"), (ROW_COUNT, count), values)
