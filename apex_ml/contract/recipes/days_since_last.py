"""Days since the latest earlier order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import pyarrow as pa

from apex_ml.contract.feature_column import FeatureColumn
from apex_ml.contract.history_state import LATEST_DATE, ORDER_COUNT
from apex_ml.contract.names import SINCE_LAST
from apex_ml.contract.recipes.interface import HistoryFeature, OrderStates, Recipe, numeric

if TYPE_CHECKING:
    from apex_ml.contract.model import Contract


class DaysSinceLastRecipe(Recipe):
    """Days since the latest earlier order."""

    recipe: Literal["days_since_last"]

    def features(self, contract: Contract) -> tuple[HistoryFeature, ...]:
        """One feature, null for an entity without history."""
        return (HistoryFeature(FeatureColumn(SINCE_LAST, "numeric"), (ORDER_COUNT, LATEST_DATE), _days_since_last),)


def _days_since_last(orders: OrderStates) -> pa.Array:
    return numeric(orders.days - orders.integers(LATEST_DATE), orders.integers(ORDER_COUNT) == 0)
