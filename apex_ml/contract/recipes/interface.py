"""The interface of a recipe: its parameters, and the features that it makes from the state of an entity's history.

A new recipe is one module of this package with one subclass of :class:`Recipe`. Its fields are the keys of the
contract; its features name the state that they read, as if all earlier rows of the entity counted. The scope of the
recipe (`by`, and `window` of a :class:`WindowedRecipe`) gives both the names and the state of the rows that do count.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BeforeValidator, Field

from apex_ml.contract.column_types import LEVEL_TYPES, NUMBERS
from apex_ml.contract.feature_column import FeatureColumn
from apex_ml.contract.history_state import ALL_ROWS, Scope, StateColumn
from apex_ml.contract.names import scoped_name
from apex_ml.contract.part import ContractPart, Place

if TYPE_CHECKING:
    from apex_ml.contract.contradictions import Parts
    from apex_ml.contract.model import Contract


@dataclass(frozen=True)
class RowStates:
    """Rows with the state of their entities' histories, n rows.

    `times` are the rows' times since 1970-01-01, `times_a_day` their units of a day: 1 where rows are dated.
    """

    table: pa.Table
    times: np.ndarray
    times_a_day: int = 1
    scope: Scope = ALL_ROWS

    def integers(self, column: StateColumn) -> np.ndarray:
        """A state column, in the scope, as int64; null (an entity without history) is 0."""
        values = self.table.column(column.within(self.scope).name)
        if pa.types.is_date(values.type):
            values = values.cast(pa.int32())
        filled: np.ndarray = pc.fill_null(values.cast(pa.int64()), 0).to_numpy()
        return filled.astype(np.int64, copy=False)

    def days_since(self, column: StateColumn) -> np.ndarray:
        """Days from the time in a state column to the row, with their fraction."""
        days: np.ndarray = (self.times - self.integers(column)) / self.times_a_day
        return days

    def day(self, column: StateColumn) -> np.ndarray:
        """The day since 1970-01-01, in UTC, of the time in a state column, as int64."""
        days: np.ndarray = self.integers(column) // self.times_a_day
        return days


@dataclass(frozen=True)
class HistoryFeature:
    """A feature made from the state: `reads` are the state columns that `values` takes from the rows."""

    column: FeatureColumn
    reads: tuple[StateColumn, ...]
    values: Callable[[RowStates], pa.Array]

    def within(self, scope: Scope) -> HistoryFeature:
        """The same feature of another part of the earlier rows."""
        if scope == ALL_ROWS:
            return self
        column = replace(self.column, name=scoped_name(self.column.name, *scope))
        reads = tuple(state.within(scope) for state in self.reads)
        return HistoryFeature(column, reads, lambda rows: self.values(replace(rows, scope=scope)))


_WINDOW = r"^[1-9][0-9]{0,2}d$"


def _read_window(value: Any) -> Any:
    if not (isinstance(value, str) and re.match(_WINDOW, value)):
        raise ValueError(f"{value} is no window: write a number of days from 1d to 999d, for example 30d")
    return value


class Recipe(ContractPart):
    """A way to make features from an entity's earlier rows."""

    recipe: str
    by: str | Annotated[tuple[str, ...], Field(min_length=1)] | None = Field(
        None,
        exclude_if=lambda by: by is None,
        description="Attribute, or a list of them: the earlier rows of every entity with the same value count; with the"
        " entity in the list its own ones. Null has no history. Without it those of the same entity count.",
    )

    @abstractmethod
    def features(self, contract: Contract) -> tuple[HistoryFeature, ...]:
        """The features, in row, as if all earlier rows counted."""

    @property
    def scope(self) -> Scope:
        """The earlier rows that count."""
        return Scope(by=(self.by,) if isinstance(self.by, str) else self.by or ())

    def scope_faults(self, parts: Parts) -> Iterator[tuple[Place, str]]:
        """Columns by which no history can be kept, each with its place below the recipe."""
        for name in self.scope.by:
            if parts.roles.get(name) == "entity":
                if len(self.scope.by) == 1:
                    yield ("by",), f"{name} is the entity, whose history it is without by: remove by"
            elif fault := parts.role_fault(name, "attribute"):
                yield ("by",), f"{fault}; a history is by what is known before the row"
            elif (column := parts.columns[name]) is not None and column.type not in LEVEL_TYPES:
                yield ("by",), f"{name} is of type {column.type}: a history is by {' or '.join(LEVEL_TYPES)}"
        if twice := sorted({name for name in self.scope.by if self.scope.by.count(name) > 1}):
            yield ("by",), f"{', '.join(twice)} is listed twice: remove one"

    def scoped(self, contract: Contract) -> tuple[HistoryFeature, ...]:
        """The features of the earlier rows that count, in row."""
        return tuple(feature.within(self.scope) for feature in self.features(contract))

    def products(self) -> tuple[str, ...]:
        """The products of the recipe, as text. Two recipes of a contract must not have the same product."""
        return (self.recipe,)

    def faults(self, parts: Parts) -> Iterator[tuple[Place, str]]:
        """Contradictions with other parts of the contract, each with its place below the recipe."""
        yield from ()


class WindowedRecipe(Recipe):
    """A recipe that may look at the earlier rows of the last days alone."""

    window: Annotated[str, BeforeValidator(_read_window), Field(pattern=_WINDOW)] | None = Field(
        None,
        exclude_if=lambda window: window is None,
        description="Only the rows of this many days before the row count, for example 30d; without it all earlier"
        " rows.",
    )

    @property
    def scope(self) -> Scope:
        """The rows of the window."""
        return super().scope._replace(window=None if self.window is None else int(self.window.removesuffix("d")))


def measure_faults(parts: Parts, names: Sequence[str], what: str) -> Iterator[tuple[Place, str]]:
    """Columns of a recipe that are not measures, or not numbers, which have no mean, minimum or the like."""
    for name in names:
        if fault := parts.role_fault(name, "measure"):
            yield ("columns",), fault
        elif (column := parts.columns[name]) is not None and column.type not in NUMBERS:
            yield ("columns",), f"{name} is of type {column.type}, which has no {what}: use {' or '.join(NUMBERS)}"


def numeric(values: np.ndarray, unknown: np.ndarray | None = None) -> pa.Array:
    """Values of a numeric feature: float64, null where `unknown`."""
    return pa.array(values.astype(np.float64), mask=unknown)
