"""What a model may know of an order: its attributes, its date, and the history of its client by recipes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from apex_ml.contract.part import ContractPart

CalendarPart = Literal["day_of_week", "day_of_month", "month", "quarter", "weekend"]


class CountRecipe(ContractPart):
    """Number of earlier orders."""

    recipe: Literal["count"]


class DaysSinceLastRecipe(ContractPart):
    """Days since the latest earlier order."""

    recipe: Literal["days_since_last"]


class LastTargetRecipe(ContractPart):
    """Target of the latest earlier order; of several on one day the level that stands last in the domain."""

    recipe: Literal["last_target"]


class TargetShareRecipe(ContractPart):
    """Share of each target level among earlier orders, smoothed towards equal shares by `smoothing` orders."""

    recipe: Literal["target_share"]
    smoothing: float = Field(gt=0)


class MeanRecipe(ContractPart):
    """Mean of measures over earlier orders."""

    recipe: Literal["mean"]
    columns: tuple[str, ...] = Field(min_length=1)


class TargetTrendRecipe(ContractPart):
    """Change of a target level's share per year over earlier orders.

    The slope of the level's indicator on time by least squares, with `shrinkage` (in squared years) added to the sum of
    squares of time; 0 when the earlier orders are of fewer than two days.
    """

    recipe: Literal["target_trend"]
    level: str
    shrinkage: float = Field(gt=0, allow_inf_nan=False)


HistoryRecipe = Annotated[
    CountRecipe | DaysSinceLastRecipe | LastTargetRecipe | TargetShareRecipe | MeanRecipe | TargetTrendRecipe,
    Field(discriminator="recipe"),
]


class Features(ContractPart):
    """What a model may know of an order, as of just before it."""

    grain: Literal["last_order_per_entity", "every_order"]
    history_lag_days: int = Field(0, ge=0)
    attributes: tuple[str, ...] = ()
    calendar: tuple[CalendarPart, ...] = ()
    history: tuple[HistoryRecipe, ...] = ()
    suspicious_gain: float = Field(
        0.5, gt=0, le=1, description="A feature that alone removes this share of the class prior's log loss is a leak."
    )
