"""The policy of the promotion gate."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from apex_ml.contract.part import ContractPart


class Promotion(ContractPart):
    """The policy of the gate. Losses are in nats per row, levels are one-sided error probabilities."""

    margin: float = Field(ge=0, description="Log loss that the lower bound of the gain over the champion must exceed.")
    alpha: float = Field(0.05, gt=0, lt=0.5, description="Probability of a false promotion: of one look, or of a year.")
    mode: Literal["sequential", "single"] = Field(
        "sequential", description="sequential: alpha holds for all looks of a year. single: alpha holds for each look."
    )
    looks_a_year: int = Field(365, ge=1, description="Looks over which the sequential mode spreads half of alpha.")
    floor: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Share of the class shares' log loss that no model without a leak reaches. A challenger is rejected"
        " when its log loss is significantly below it. None: no such rule.",
    )
    max_ece: float = Field(0.05, gt=0, le=1, description="Largest classwise calibration error.")
    max_bias: float = Field(0.05, gt=0, le=1, description="Largest gap of a class's mean probability to its share.")
    collapse: float = Field(
        0.25, ge=0, lt=1, description="A class has collapsed when its mean probability is below this part of its share."
    )
    max_recall_drop: float = Field(0.05, ge=0, le=1, description="Largest decrease of a class's recall.")
    segment_rows: int = Field(500, ge=1, description="Minimum holdout rows to evaluate a segment.")
    max_us_per_row: float = Field(1000, gt=0, description="Maximum scoring time, in microseconds per row.")
    forbidden_features: tuple[str, ...] = Field((), description="Features that a champion must not use.")
    stale_after_days: int | None = Field(
        None,
        ge=1,
        description="Days after which a challenger that is not worse replaces a champion. None: never.",
    )
    non_inferiority: float = Field(0.001, gt=0, description="Log loss by which such a challenger may be worse.")
