"""Mean of measures over earlier rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from apex_ml.contract.feature_column import FeatureColumn
from apex_ml.contract.history_state import KnownValues, MeasureSum, StateColumn
from apex_ml.contract.names import known_name, mean_name, sum_name
from apex_ml.contract.part import Place
from apex_ml.contract.recipes.interface import HistoryFeature, RowStates, WindowedRecipe, measure_faults, numeric

if TYPE_CHECKING:
    from apex_ml.contract.contradictions import Parts
    from apex_ml.contract.model import Contract


class MeanRecipe(WindowedRecipe):
    """Mean of measures over earlier rows."""

    recipe: Literal["mean"]
    columns: tuple[str, ...] = Field(min_length=1)

    def features(self, contract: Contract) -> tuple[HistoryFeature, ...]:
        """One feature per measure, null where no earlier row has a value."""
        return tuple(_feature(measure, contract.columns[measure].scale) for measure in self.columns)

    def products(self) -> tuple[str, ...]:
        """One mean per measure."""
        return tuple(f"mean of {name}" for name in self.columns)

    def faults(self, parts: Parts) -> Iterator[tuple[Place, str]]:
        """Columns that are not measures or have no mean."""
        yield from measure_faults(parts, self.columns, "mean")


def _feature(measure: str, scale: int) -> HistoryFeature:
    total = StateColumn(sum_name(measure), "integer", MeasureSum(measure))
    count = StateColumn(known_name(measure), "integer", KnownValues(measure))

    def values(rows: RowStates) -> pa.Array:
        known = rows.integers(count)
        return numeric(rows.integers(total) / (np.maximum(known, 1) * scale), known == 0)

    return HistoryFeature(FeatureColumn(mean_name(measure), "numeric"), (total, count), values)
