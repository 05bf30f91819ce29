"""The features of a row: its attributes, its date, and recipes over the history of its entity."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from apex_ml.contract.part import ContractPart
from apex_ml.contract.recipes import HistoryRecipe

CalendarPart = Literal["day_of_week", "day_of_month", "month", "quarter", "weekend", "hour"]


class Features(ContractPart):
    """The features of a row, from what is known just before it."""

    grain: Literal["last_row_per_entity", "every_row"]
    history_lag_days: int = Field(0, ge=0)
    history_lag_hours: int | None = Field(
        None,
        ge=1,
        exclude_if=lambda hours: hours is None,
        description="Lag in hours, where rows have a time of day, instead of `history_lag_days`: a row counts for those"
        " that come later than this after it.",
    )
    attributes: tuple[str, ...] = ()
    days_since: tuple[str, ...] = Field(
        (),
        exclude_if=lambda names: not names,
        description="Attributes of type date that become the number of days from them to the row.",
    )
    calendar: tuple[CalendarPart, ...] = ()
    history: tuple[HistoryRecipe, ...] = ()
    suspicious_gain: float = Field(
        0.5, gt=0, le=1, description="A feature that alone removes this share of the class prior's log loss is a leak."
    )

    @property
    def lag_text(self) -> str:
        """The key of the lag with its value."""
        if self.history_lag_hours is not None:
            return f"history_lag_hours: {self.history_lag_hours}"
        return f"history_lag_days: {self.history_lag_days}"
