"""Number of distinct values of attributes in earlier rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import pyarrow as pa
from pydantic import Field

from apex_ml.contract.column_types import LEVEL_TYPES
from apex_ml.contract.feature_column import FeatureColumn
from apex_ml.contract.history_state import DistinctValues, StateColumn
from apex_ml.contract.names import distinct_name
from apex_ml.contract.part import Place
from apex_ml.contract.recipes.interface import HistoryFeature, RowStates, WindowedRecipe, numeric

if TYPE_CHECKING:
    from apex_ml.contract.contradictions import Parts
    from apex_ml.contract.model import Contract


class CountDistinctRecipe(WindowedRecipe):
    """Number of distinct values of attributes in earlier rows. Null is no value."""

    recipe: Literal["count_distinct"]
    columns: tuple[str, ...] = Field(min_length=1)

    def features(self, contract: Contract) -> tuple[HistoryFeature, ...]:
        """One feature per attribute, 0 without history."""
        return tuple(map(_feature, self.columns))

    def products(self) -> tuple[str, ...]:
        """One number per attribute."""
        return tuple(f"count_distinct of {name}" for name in self.columns)

    def faults(self, parts: Parts) -> Iterator[tuple[Place, str]]:
        """Columns that are not attributes, or whose values are no levels."""
        for name in self.columns:
            if fault := parts.role_fault(name, "attribute"):
                yield ("columns",), fault
            elif (column := parts.columns[name]) is not None and column.type not in LEVEL_TYPES:
                kinds = " or ".join(LEVEL_TYPES)
                yield ("columns",), f"{name} is of type {column.type}, whose values are not counted: use {kinds}"


def _feature(attribute: str) -> HistoryFeature:
    state = StateColumn(distinct_name(attribute), "integer", DistinctValues(attribute))

    def values(rows: RowStates) -> pa.Array:
        return numeric(rows.integers(state))

    return HistoryFeature(FeatureColumn(distinct_name(attribute), "numeric"), (state,), values)
