"""Days since the latest earlier row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import pyarrow as pa

from apex_ml.contract.feature_column import FeatureColumn
from apex_ml.contract.history_state import LATEST_DATE, ROW_COUNT
from apex_ml.contract.names import SINCE_LAST
from apex_ml.contract.recipes.interface import HistoryFeature, Recipe, RowStates, numeric

if TYPE_CHECKING:
    from apex_ml.contract.model import Contract


class DaysSinceLastRecipe(Recipe):
    """Days since the latest earlier row, with their fraction where rows have a time of day."""

    recipe: Literal["days_since_last"]

    def features(self, contract: Contract) -> tuple[HistoryFeature, ...]:
        """One feature, null for an entity without history."""
        return (HistoryFeature(FeatureColumn(SINCE_LAST, "numeric"), (ROW_COUNT, LATEST_DATE), _days_since_last),)


def _days_since_last(rows: RowStates) -> pa.Array:
    return numeric(rows.days_since(LATEST_DATE), rows.integers(ROW_COUNT) == 0)
