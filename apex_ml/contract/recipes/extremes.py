"""The smallest and the largest value of measures in earlier rows."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import pyarrow as pa
from pydantic import Field

from apex_ml.contract.feature_column import FeatureColumn
from apex_ml.contract.history_state import Extreme, KnownValues, StateColumn
from apex_ml.contract.names import extreme_name, known_name
from apex_ml.contract.part import Place
from apex_ml.contract.recipes.interface import HistoryFeature, RowStates, WindowedRecipe, measure_faults, numeric

if TYPE_CHECKING:
    from apex_ml.contract.contradictions import Parts
    from apex_ml.contract.model import Contract


class _ExtremeRecipe(WindowedRecipe):
    """Smallest or largest value of measures in earlier rows."""

    columns: tuple[str, ...] = Field(min_length=1)

    @property
    @abstractmethod
    def side(self) -> Literal["min", "max"]:
        """Which of the values counts."""

    def features(self, contract: Contract) -> tuple[HistoryFeature, ...]:
        """One feature per measure, null where no earlier row has a value."""
        return tuple(_feature(measure, self.side, contract.columns[measure].scale) for measure in self.columns)

    def products(self) -> tuple[str, ...]:
        """One value per measure."""
        return tuple(f"{self.side} of {name}" for name in self.columns)

    def faults(self, parts: Parts) -> Iterator[tuple[Place, str]]:
        """Columns that are not measures or not numbers."""
        yield from measure_faults(parts, self.columns, {"min": "minimum", "max": "maximum"}[self.side])


class MinRecipe(_ExtremeRecipe):
    """Smallest value of measures in earlier rows."""

    recipe: Literal["min"]

    @property
    def side(self) -> Literal["min"]:
        """The smallest."""
        return self.recipe


class MaxRecipe(_ExtremeRecipe):
    """Largest value of measures in earlier rows."""

    recipe: Literal["max"]

    @property
    def side(self) -> Literal["max"]:
        """The largest."""
        return self.recipe


def _feature(measure: str, side: Literal["min", "max"], scale: int) -> HistoryFeature:
    extreme = StateColumn(extreme_name(side, measure), "integer", Extreme(measure, side))
    count = StateColumn(known_name(measure), "integer", KnownValues(measure))

    def values(rows: RowStates) -> pa.Array:
        return numeric(rows.integers(extreme) / scale, rows.integers(count) == 0)

    return HistoryFeature(FeatureColumn(extreme_name(side, measure), "numeric"), (extreme, count), values)
