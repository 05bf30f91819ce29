"""The policy of the promotion gate."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from apex_ml.contract.part import ContractPart


class Promotion(ContractPart):
    """The policy of the gate. Losses are in nats an order, levels are one-sided error probabilities."""

    margin: float = Field(ge=0, description="Log loss a challenger must surely gain over the champion.")
    alpha: float = Field(0.05, gt=0, lt=0.5, description="Probability of a false promotion: a look's, or a year's.")
    mode: Literal["sequential", "single"] = Field(
        "sequential", description="sequential: alpha holds for a year of looks. single: for each look alone."
    )
    looks_a_year: int = Field(365, ge=1, description="Looks over which the sequential mode spreads half of alpha.")
    floor: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Share of the log loss of the class shares alone that nothing honest reaches: a challenger surely"
        " below it knows the target. None: no such rule.",
    )
    max_ece: float = Field(0.05, gt=0, le=1, description="Largest classwise calibration error.")
    max_bias: float = Field(0.05, gt=0, le=1, description="Largest gap of a class's mean probability to its share.")
    collapse: float = Field(
        0.25, ge=0, lt=1, description="A class whose mean probability is below this part of its share has collapsed."
    )
    max_recall_drop: float = Field(0.05, ge=0, le=1, description="Largest fall of a class's recall.")
    segment_orders: int = Field(500, ge=1, description="Holdout orders from which on a segment is judged.")
    max_us_per_order: float = Field(1000, gt=0, description="Largest time of scoring, in microseconds an order.")
    forbidden_features: tuple[str, ...] = Field((), description="Features that no champion may use.")
    stale_after_days: int | None = Field(
        None, ge=1, description="Age of a champion from which on a challenger need only be no worse. None: never."
    )
    non_inferiority: float = Field(0.001, gt=0, description="Log loss by which such a challenger may be worse.")
