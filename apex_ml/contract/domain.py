"""The allowed levels of a column, and their names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

from pydantic import Field, WithJsonSchema, field_validator
from pydantic.json_schema import SkipJsonSchema

from apex_ml.contract.column_types import ColumnType, level_value
from apex_ml.contract.part import ContractPart
from apex_ml.contract.per_use import BoolPerUse

_LEVEL = {"anyOf": [{"type": kind} for kind in ("string", "integer", "boolean", "number")]}
_LEVELS = {
    "anyOf": [
        {"type": "array", "items": _LEVEL, "minItems": 1},
        {"type": "object", "additionalProperties": {"type": "string"}, "minProperties": 1},
    ]
}


class Domain(ContractPart):
    """The allowed levels of a column, values of its type; in reports, tables and answers they are text.

    Each may have a name, which then stands for it there: the file has a mapping of values to names.
    """

    levels: Annotated[tuple[str, ...], WithJsonSchema(_LEVELS)] = Field(min_length=1)
    closed: BoolPerUse = Field(description="Closed: another value is quarantined. Open: it is the unknown level.")
    values: SkipJsonSchema[tuple[str, ...] | None] = Field(None, exclude_if=lambda values: values is None)
    """The values that have the names, as text; None where levels have no names."""

    @property
    def value_texts(self) -> tuple[str, ...]:
        """The values as the data has them, as text."""
        return self.levels if self.values is None else self.values

    @property
    def shown(self) -> tuple[str, ...]:
        """The levels for people: ``0 (kept)``, or the value alone where it has no name."""
        if self.values is None:
            return self.levels
        return tuple(f"{value} ({name})" for value, name in zip(self.values, self.levels, strict=True))

    @field_validator("levels")
    @classmethod
    def _distinct(cls, levels: tuple[str, ...]) -> tuple[str, ...]:
        if twice := sorted({level for level in levels if levels.count(level) > 1}):
            raise ValueError(repeated_levels(twice))
        return levels


def name_faults(domain: Domain, kind: ColumnType, decimals: int | None, timezone: str | None) -> Iterator[str]:
    """What is wrong with the names of the levels of a column of a type."""
    if domain.values is None:
        return
    if twice := sorted({value for value in domain.values if domain.values.count(value) > 1}):
        yield repeated_levels(twice)
    for value, name in zip(domain.values, domain.levels, strict=True):
        if not name.strip():
            yield f"the level {value} has an empty name: write one, or remove the level"
        elif name != value and level_value(kind, decimals, name, timezone) is not None:
            yield f"{name!r} as the name of {value} is itself a value of type {kind}: choose another name"


def repeated_levels(levels: Sequence[str]) -> str:
    """The fault of levels that are listed twice."""
    shown = ", ".join(map(repr, levels))
    if len(levels) == 1:
        return f"the level {shown} is listed twice: remove one, or rename it"
    return f"the levels {shown} are listed twice: remove one of each, or rename it"
