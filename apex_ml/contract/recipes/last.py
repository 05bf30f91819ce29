"""Value of measures in the latest earlier row that has one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import pyarrow as pa
from pydantic import Field

from apex_ml.contract.feature_column import FeatureColumn
from apex_ml.contract.history_state import KnownValues, LatestValue, StateColumn
from apex_ml.contract.names import known_name, last_name, latest_name
from apex_ml.contract.part import Place
from apex_ml.contract.recipes.interface import HistoryFeature, Recipe, RowStates, measure_faults, numeric

if TYPE_CHECKING:
    from apex_ml.contract.contradictions import Parts
    from apex_ml.contract.model import Contract


class LastRecipe(Recipe):
    """Value of measures on the latest earlier day that has one. Of several values on that day it is the largest."""

    recipe: Literal["last"]
    columns: tuple[str, ...] = Field(min_length=1)

    def features(self, contract: Contract) -> tuple[HistoryFeature, ...]:
        """One feature per measure, null where no earlier row has a value."""
        return tuple(_feature(measure, contract.columns[measure].scale) for measure in self.columns)

    def products(self) -> tuple[str, ...]:
        """One value per measure."""
        return tuple(f"last of {name}" for name in self.columns)

    def faults(self, parts: Parts) -> Iterator[tuple[Place, str]]:
        """Columns that are not measures or not numbers."""
        yield from measure_faults(parts, self.columns, "last value")


def _feature(measure: str, scale: int) -> HistoryFeature:
    latest = StateColumn(latest_name(measure), "integer", LatestValue(measure))
    count = StateColumn(known_name(measure), "integer", KnownValues(measure))

    def values(rows: RowStates) -> pa.Array:
        return numeric(rows.integers(latest) / scale, rows.integers(count) == 0)

    return HistoryFeature(FeatureColumn(last_name(measure), "numeric"), (latest, count), values)
