"""Checks of one column's values: a range, a pattern."""

from __future__ import annotations

import re
import warnings
from datetime import date, datetime
from typing import Annotated, Any, Literal, Self

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator, model_validator

from apex_ml.contract.part import ContractPart
from apex_ml.contract.per_use import BOTH_ERROR, SeverityPerUse

EXACT_INTEGERS = 2**53
"""A double holds every integer up to this limit exactly."""


class RangeCheck(ContractPart):
    """A value is between two bounds, both included."""

    rule: Literal["range"]
    min: float | date | datetime | None = None
    max: float | date | datetime | None = None
    severity: SeverityPerUse = BOTH_ERROR

    @field_validator("min", "max", mode="before")
    @classmethod
    def _exact(cls, bound: Any) -> Any:
        if isinstance(bound, int) and abs(bound) > EXACT_INTEGERS:
            raise ValueError(f"{bound} is too large to be compared exactly; the maximum is {EXACT_INTEGERS}")
        return bound

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError("a range needs min or max: write the smallest or the largest valid value")
        if self.min is not None and self.max is not None:
            if isinstance(self.min, date) != isinstance(self.max, date):
                raise ValueError(f"min {self.min} and max {self.max}: one is a date and the other a number")
            if isinstance(self.min, datetime) != isinstance(self.max, datetime):
                raise ValueError(f"min {self.min} and max {self.max}: write both with or both without a time of day")
            if self.min > self.max:  # type: ignore[operator]
                raise ValueError(f"min {self.min} is above max {self.max}: exchange them")
        return self


class PatternCheck(ContractPart):
    """A string matches a regular expression as a whole (RE2 syntax)."""

    rule: Literal["pattern"]
    regex: str
    severity: SeverityPerUse = BOTH_ERROR

    @field_validator("regex")
    @classmethod
    def _compiles(cls, regex: str) -> str:
        """Refuse a pattern that RE2 (files) or Python (requests, expectations) does not know."""
        try:
            pc.match_substring_regex(pa.array([""]), regex)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                re.compile(regex)
        except (re.error, pa.ArrowInvalid, FutureWarning, OverflowError, RecursionError) as error:
            raise ValueError(
                f"not a regular expression that RE2 and Python read alike: {error}; found {regex!r}"
            ) from error
        if re.search(r"\{,\d+\}", regex):
            raise ValueError(
                f"not a regular expression that RE2 and Python read alike: write {{0,n}} for {{,n}} in {regex!r}"
            )
        return regex


Check = Annotated[RangeCheck | PatternCheck, Field(discriminator="rule")]
