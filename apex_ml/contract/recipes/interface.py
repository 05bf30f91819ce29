"""The interface of a recipe: its parameters, and the features that it makes from the state of an entity's history.

A new recipe is one module of this package with one subclass of :class:`Recipe`. Its fields are the keys of the
contract; its features name the state that they read.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from apex_ml.contract.feature_column import FeatureColumn
from apex_ml.contract.history_state import StateColumn
from apex_ml.contract.names import LAST_DATE
from apex_ml.contract.part import ContractPart, Place

if TYPE_CHECKING:
    from apex_ml.contract.contradictions import Parts
    from apex_ml.contract.model import Contract


@dataclass(frozen=True)
class RowStates:
    """Rows with the state of their entities' histories, n rows; `days` are the rows' days since 1970-01-01."""

    table: pa.Table
    days: np.ndarray

    def integers(self, column: StateColumn) -> np.ndarray:
        """A state column as int64; null (an entity without history) is 0."""
        values = self.table.column(column.name)
        if column.name == LAST_DATE:
            values = values.cast(pa.int32())
        filled: np.ndarray = pc.fill_null(values.cast(pa.int64()), 0).to_numpy()
        return filled.astype(np.int64, copy=False)


@dataclass(frozen=True)
class HistoryFeature:
    """A feature made from the state: `reads` are the state columns that `values` takes from the rows."""

    column: FeatureColumn
    reads: tuple[StateColumn, ...]
    values: Callable[[RowStates], pa.Array]


class Recipe(ContractPart):
    """A way to make features from an entity's earlier rows."""

    recipe: str

    @abstractmethod
    def features(self, contract: Contract) -> tuple[HistoryFeature, ...]:
        """The features, in row."""

    def products(self) -> tuple[str, ...]:
        """The products of the recipe, as text. Two recipes of a contract must not have the same product."""
        return (self.recipe,)

    def faults(self, parts: Parts) -> Iterator[tuple[Place, str]]:
        """Contradictions with other parts of the contract, each with its place below the recipe."""
        yield from ()


def numeric(values: np.ndarray, unknown: np.ndarray | None = None) -> pa.Array:
    """Values of a numeric feature: float64, null where `unknown`."""
    return pa.array(values.astype(np.float64), mask=unknown)
