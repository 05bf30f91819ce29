"""Rules for a batch of accepted rows: allowed differences from recent batches, allowed share of quarantine."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from apex_ml.contract.part import ContractPart
from apex_ml.contract.per_use import FloatPerUse, Severity


class Quarantine(ContractPart):
    """Maximum quarantine of a batch."""

    limit: FloatPerUse


class RowCountRule(ContractPart):
    """The number of rows is within a band around the median of recent batches."""

    rule: Literal["row_count"]
    low: float = Field(gt=0, le=1, description="Lowest share of the recent median.")
    high: float = Field(ge=1, description="Highest multiple of the recent median.")
    severity: Severity = "error"


class NullRateRule(ContractPart):
    """The share of nulls of a column exceeds the maximum of recent batches by at most a limit."""

    rule: Literal["null_rate"]
    max_rise: float = Field(ge=0, le=1)
    severity: Severity = "error"


class CategoryShareRule(ContractPart):
    """The share of each level of a column differs from the mean of recent batches by at most a limit."""

    rule: Literal["category_share"]
    max_change: float = Field(gt=0, le=1)
    severity: Severity = "error"


class FutureDateOutlierRule(ContractPart):
    """The newest date is not far after nearly all others, because it would shift the run's point in time."""

    rule: Literal["future_date_outlier"]
    max_days: int = Field(
        ge=1, description="Maximum days from the latest date of `share` of the rows to the newest date."
    )
    share: float = Field(0.999, gt=0.5, lt=1)
    severity: Severity = "error"


class FreshnessRule(ContractPart):
    """The newest date is recent by the wall clock. Old data does not fail a run, so that this rule only warns."""

    rule: Literal["freshness"]
    max_days: int = Field(ge=0)
    severity: Literal["warning"] = "warning"


BatchRule = Annotated[
    RowCountRule | NullRateRule | CategoryShareRule | FutureDateOutlierRule | FreshnessRule, Field(discriminator="rule")
]


class Batch(ContractPart):
    """Rules that compare a batch of accepted rows with the recent ones."""

    recent: int = Field(ge=1, description="Number of earlier batches to compare with.")
    rules: tuple[BatchRule, ...] = ()
