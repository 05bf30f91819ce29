"""Number of earlier rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from apex_ml.contract.feature_column import FeatureColumn
from apex_ml.contract.history_state import ALL_ROWS, ROW_COUNT
from apex_ml.contract.names import EARLIER_ROWS
from apex_ml.contract.recipes.interface import HistoryFeature, WindowedRecipe, numeric

if TYPE_CHECKING:
    from apex_ml.contract.model import Contract


class CountRecipe(WindowedRecipe):
    """Number of earlier rows."""

    recipe: Literal["count"]
    name: Literal["history_rows"] | None = Field(None, exclude_if=lambda name: name is None)
    """Name of the feature; without it that of the first edition, or of a count of some rows history_count."""

    def features(self, contract: Contract) -> tuple[HistoryFeature, ...]:
        """One feature, 0 for an entity without history."""
        first_edition = EARLIER_ROWS if self.scope == ALL_ROWS else "history_count"
        column = FeatureColumn(self.name or first_edition, "numeric")
        return (HistoryFeature(column, (ROW_COUNT,), lambda rows: numeric(rows.integers(ROW_COUNT))),)
