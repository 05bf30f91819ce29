"""The columns of a process: how the values of each are drawn, checked when the process file is loaded."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

TOLERANCE = 1e-9

Weights = dict[str, Annotated[float, Field(ge=0)]]


def check_weights(weights: Weights, where: str) -> None:
    """Refuse weights that are not a distribution."""
    if abs(sum(weights.values()) - 1) > TOLERANCE:
        raise ValueError(f"{where}: weights add up to {sum(weights.values()):g}, not 1")


def check_names(names: Iterable[str], known: Iterable[str], where: str) -> None:
    """Refuse names that are not among the known ones."""
    known = list(known)
    if unknown := sorted(set(names) - set(known)):
        raise ValueError(f"{where}: unknown {', '.join(unknown)}; known are {', '.join(known)}")


class Model(BaseModel):
    """Frozen, and refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Entity(Model):
    """The column of the client: a format string of the entity's number, from 1."""

    kind: Literal["entity"]
    template: str


class Branch(Model):
    """A level of the tree: a format string of the names and numbers on the way to the leaf."""

    kind: Literal["branch"]
    template: str


class Choice(Model):
    """An attribute of the entity: weights of its levels, or one row of weights per level of another attribute."""

    kind: Literal["choice"]
    weights: Weights = {}
    given: str = ""
    table: dict[str, Weights] = {}

    @model_validator(mode="after")
    def _one_of_two(self) -> Choice:
        if bool(self.weights) == bool(self.table) or bool(self.given) != bool(self.table):
            raise ValueError("state either weights, or given and table")
        for level, weights in self.rows.items():
            check_weights(weights, level or "weights")
            if list(weights) != self.levels:
                raise ValueError(f"{level}: levels differ from those of the first row, {', '.join(self.levels)}")
        return self

    @property
    def rows(self) -> dict[str, Weights]:
        """Weights by level of `given`; one row named '' without it."""
        return self.table or {"": self.weights}

    @property
    def levels(self) -> list[str]:
        """Names in the order of the file."""
        return list(next(iter(self.rows.values())))


class Timestamp(Model):
    """The day of the order, uniform over the window."""

    kind: Literal["timestamp"]


class Target(Model):
    """The class of the order: probabilities per level of one attribute, none of them zero."""

    kind: Literal["target"]
    given: str
    table: dict[str, dict[str, Annotated[float, Field(gt=0)]]]

    @model_validator(mode="after")
    def _rows_agree(self) -> Target:
        if not self.table:
            raise ValueError("the table is empty")
        for level, weights in self.table.items():
            check_weights(weights, level)
            if list(weights) != self.classes:
                raise ValueError(f"{level}: classes differ from those of the first row, {', '.join(self.classes)}")
        if len(self.classes) < 2:
            raise ValueError("a target needs two classes or more")
        return self

    @property
    def classes(self) -> list[str]:
        """Names in the order of the file."""
        return list(next(iter(self.table.values())))


class AbsNormal(Model):
    """A measure: the absolute value of a normal draw, rounded."""

    kind: Literal["abs_normal"]
    mean: float
    sd: float = Field(gt=0)
    decimals: int = Field(default=2, ge=0, le=9)


class Integers(Model):
    """A measure: uniform whole numbers from low to high, both included."""

    kind: Literal["integers"]
    low: int
    high: int

    @model_validator(mode="after")
    def _ordered(self) -> Integers:
        if self.high < self.low:
            raise ValueError(f"high {self.high} is below low {self.low}")
        return self


Column = Annotated[Entity | Branch | Choice | Timestamp | Target | AbsNormal | Integers, Field(discriminator="kind")]
TYPES: dict[type[Model], Literal["string", "int64", "double", "date"]] = {
    Entity: "string",
    Branch: "string",
    Choice: "string",
    Timestamp: "date",
    Target: "string",
    AbsNormal: "double",
    Integers: "int64",
}
