"""The lag of the history: how long before a row the last row lies that counts for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from apex_ml.contract.columns import Column
from apex_ml.contract.part import Place
from apex_ml.wording import counted

MAX_LAG_YEARS = 10
_HOURS = {"history_lag_days": 24, "history_lag_hours": 1}
"""The keys of the lag, and the hours of their unit."""


def lag_faults(days: Any, hours: Any, when: Column | None) -> Iterator[tuple[Place, str]]:
    """Contradictions of a lag with itself and with the timestamp column, each with its place in the file.

    A lag that is no whole number has a fault of its own.
    """
    for key, given in (("history_lag_days", days), ("history_lag_hours", hours)):
        unit, longest = key.rpartition("_")[2].removesuffix("s"), MAX_LAG_YEARS * 365 * 24 // _HOURS[key]
        if isinstance(given, int) and given > longest:
            yield (
                ("features", key),
                f"with a lag of {counted(given, unit)} rows have no history: write at most {longest:,}"
                f" ({MAX_LAG_YEARS} years), or remove the recipes of history",
            )
    if not isinstance(hours, int):
        return
    if days and isinstance(days, int):
        yield ("features", "history_lag_hours"), "there is a lag in days too: remove history_lag_days or this one"
    if when is not None and when.type == "date":
        yield (
            ("features", "history_lag_hours"),
            f"{when.name} is a date, which has no hours: write history_lag_days, or give the column the type timestamp",
        )
