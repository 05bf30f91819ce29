"""How a batch of accepted rows may differ from recent ones, and how much of it may be quarantined."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from apex_ml.contract.part import ContractPart
from apex_ml.contract.per_use import FloatPerUse, Severity


class Quarantine(ContractPart):
    """How much of a batch may be quarantined."""

    limit: FloatPerUse


class RowCountRule(ContractPart):
    """The number of rows lies within a band around the median of recent batches."""

    rule: Literal["row_count"]
    low: float = Field(gt=0, le=1, description="Lowest share of the recent median.")
    high: float = Field(ge=1, description="Highest multiple of the recent median.")
    severity: Severity = "error"


class NullRateRule(ContractPart):
    """The share of nulls of a column exceeds the highest of recent batches by no more than a limit."""

    rule: Literal["null_rate"]
    max_rise: float = Field(ge=0, le=1)
    severity: Severity = "error"


class CategoryShareRule(ContractPart):
    """The share of each level of a column differs from the mean of recent batches by no more than a limit."""

    rule: Literal["category_share"]
    max_change: float = Field(gt=0, le=1)
    severity: Severity = "error"


class FutureDateOutlierRule(ContractPart):
    """The newest date is not far beyond nearly all others, as it would move the moment the run looks from."""

    rule: Literal["future_date_outlier"]
    max_days: int = Field(
        ge=1, description="Days the newest date may lie beyond the date that `share` of rows precede."
    )
    share: float = Field(0.999, gt=0.5, lt=1)
    severity: Severity = "error"


class FreshnessRule(ContractPart):
    """The newest date is recent by the clock on the wall. Old data is no fault of a run, so that it only warns."""

    rule: Literal["freshness"]
    max_days: int = Field(ge=0)
    severity: Literal["warning"] = "warning"


BatchRule = Annotated[
    RowCountRule | NullRateRule | CategoryShareRule | FutureDateOutlierRule | FreshnessRule, Field(discriminator="rule")
]


class Batch(ContractPart):
    """What a batch of accepted rows must be beside the recent ones."""

    recent: int = Field(ge=1, description="How many earlier batches are compared with.")
    rules: tuple[BatchRule, ...] = ()
