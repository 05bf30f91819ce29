"""Number of earlier orders."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from apex_ml.contract.feature_column import FeatureColumn
from apex_ml.contract.history_state import ORDER_COUNT
from apex_ml.contract.names import ORDERS
from apex_ml.contract.recipes.interface import HistoryFeature, Recipe, numeric

if TYPE_CHECKING:
    from apex_ml.contract.model import Contract


class CountRecipe(Recipe):
    """Number of earlier orders."""

    recipe: Literal["count"]

    def features(self, contract: Contract) -> tuple[HistoryFeature, ...]:
        """One feature, 0 for an entity without history."""
        column = FeatureColumn(ORDERS, "numeric")
        return (HistoryFeature(column, (ORDER_COUNT,), lambda orders: numeric(orders.integers(ORDER_COUNT))),)
