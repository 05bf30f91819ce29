"""Rules over several columns of a row, over the day of a run, and over the rows of a file."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from apex_ml.contract.part import ContractPart
from apex_ml.contract.per_use import BOTH_ERROR, SeverityPerUse


class PairsRule(ContractPart):
    """The value of one column limits the values of another."""

    name: str
    description: str
    rule: Literal["pairs"]
    columns: tuple[str, str]
    allowed: dict[str, Annotated[tuple[str, ...], Field(min_length=1)]] = Field(min_length=1)
    severity: SeverityPerUse = BOTH_ERROR


class BeforeAsOfRule(ContractPart):
    """A date is before the run's point in time."""

    name: str
    description: str
    rule: Literal["before_as_of"]
    columns: tuple[str]
    severity: SeverityPerUse = BOTH_ERROR


class UniqueRule(ContractPart):
    """A combination of columns is unique in a file. Of several equal rows the first is kept."""

    name: str
    description: str
    rule: Literal["unique"]
    columns: Literal["all"] | Annotated[tuple[str, ...], Field(min_length=1)]
    severity: SeverityPerUse = BOTH_ERROR


Rule = Annotated[PairsRule | BeforeAsOfRule | UniqueRule, Field(discriminator="rule")]
