"""The state of an entity's history: aggregates of its earlier rows, described as data.

Two compilers read the description and give the same integers: :mod:`apex_ml.sql.features` makes SQL of it, and
:mod:`apex_ml.core.history` running sums over sorted rows. State is exact: counts are integers and sums are integers
of the measure's smallest unit, so that no result depends on the order in which rows are read or threads finish.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from apex_ml.contract.encoded_names import class_labels
from apex_ml.contract.names import EARLIER_ROWS, LAST_DATE, LAST_TARGET, count_name, state_name

if TYPE_CHECKING:
    from apex_ml.contract.model import Contract


@dataclass(frozen=True)
class Rows:
    """Number of rows; with `level` those that have this target."""

    level: str | None = None


@dataclass(frozen=True)
class LastDate:
    """Time of the latest row; null without rows."""


@dataclass(frozen=True)
class LastTarget:
    """Place of the latest row's target among the classes, from 1; 0 for none of them, null without rows.

    Of several rows of the latest time the one counts whose target is the last in the domain.
    """


@dataclass(frozen=True)
class MeasureSum:
    """Sum of a measure, in its smallest unit."""

    measure: str


@dataclass(frozen=True)
class KnownValues:
    """Number of rows that have a value of a measure."""

    measure: str


@dataclass(frozen=True)
class DaySum:
    """Sum of the rows' days since 1970-01-01, in UTC, to a power; with `level` of the rows that have this target."""

    power: Literal[1, 2] = 1
    level: str | None = None


@dataclass(frozen=True)
class DistinctValues:
    """Number of distinct values of an attribute; null is none."""

    attribute: str


@dataclass(frozen=True)
class Extreme:
    """The smallest or the largest value of a measure, in its smallest unit; null without a value."""

    measure: str
    side: Literal["min", "max"]


@dataclass(frozen=True)
class LatestValue:
    """Value of a measure at the latest time that has one, in its smallest unit; the largest of several at that time."""

    measure: str


Aggregate = Rows | LastDate | LastTarget | MeasureSum | KnownValues | DaySum | DistinctValues | Extreme | LatestValue


def column_of(aggregate: Aggregate) -> str | None:
    """The attribute or measure that an aggregate reads."""
    match aggregate:
        case MeasureSum(name) | KnownValues(name) | DistinctValues(name) | Extreme(name, _) | LatestValue(name):
            return name
    return None


class Scope(NamedTuple):
    """The earlier rows that a state is made of."""

    window: int | None = None
    """Days before the row, less the lag; None for all."""
    by: tuple[str, ...] = ()
    """The rows with the same values of these columns; without any those of the same entity."""

    @property
    def text(self) -> str:
        """The scope in an error, after what is counted in it; empty for all rows."""
        days = "" if self.window is None else f" of the last {self.window} days"
        return f"{days} by {' and '.join(self.by)}" if self.by else days


ALL_ROWS = Scope()


class StateColumn(NamedTuple):
    """One column of the state: an integer, or a time as the timestamp column has it."""

    name: str
    type: Literal["integer", "time"]
    aggregate: Aggregate
    scope: Scope = ALL_ROWS

    def within(self, scope: Scope) -> StateColumn:
        """The same aggregate over another part of the earlier rows."""
        return self if scope == ALL_ROWS else self._replace(name=state_name(self.name, *scope), scope=scope)


ROW_COUNT = StateColumn(EARLIER_ROWS, "integer", Rows())
LATEST_DATE = StateColumn(LAST_DATE, "time", LastDate())
LATEST_TARGET = StateColumn(LAST_TARGET, "integer", LastTarget())


def level_count(contract: Contract, level: str) -> StateColumn:
    """Earlier rows with a target level."""
    return StateColumn(count_name(class_labels(contract.classes)[level]), "integer", Rows(level))


def distinct_attributes(contract: Contract, by: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The attributes whose distinct values the history counts."""
    aggregates = [column.aggregate for column in state_columns(contract, by)]
    return tuple(dict.fromkeys(one.attribute for one in aggregates if isinstance(one, DistinctValues)))


def longest_window(columns: Iterable[StateColumn]) -> int:
    """Days of the longest window; 0 without one."""
    return max((column.scope.window or 0 for column in columns), default=0)


def state_columns(contract: Contract, by: tuple[str, ...] = ()) -> tuple[StateColumn, ...]:
    """The state of the history of an entity, or by other columns.

    It is what the recipes read, and for the entity what every snapshot holds.
    """
    columns = [] if by else [ROW_COUNT, LATEST_DATE, LATEST_TARGET]
    columns += [] if by else [level_count(contract, level) for level in contract.classes]
    for recipe in contract.features.history:
        for feature in recipe.scoped(contract):
            columns += [column for column in feature.reads if column.scope.by == by]
    return tuple(dict.fromkeys(columns))


def history_keys(contract: Contract) -> tuple[tuple[str, ...], ...]:
    """The columns by which rows share a history, beside the entity."""
    keys = dict.fromkeys(recipe.scope.by for recipe in contract.features.history)
    return tuple(by for by in keys if by)


def whole_state(contract: Contract) -> tuple[StateColumn, ...]:
    """The state of every history."""
    return tuple(column for by in ((), *history_keys(contract)) for column in state_columns(contract, by))
