"""Change of a target level's share over earlier rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from apex_ml.contract.encoded_names import class_labels
from apex_ml.contract.feature_column import FeatureColumn
from apex_ml.contract.history_state import LATEST_DATE, ROW_COUNT, DaySum, StateColumn, level_count
from apex_ml.contract.names import DAYS, DAYS_SQUARED, days_name, trend_name
from apex_ml.contract.part import Place
from apex_ml.contract.recipes.interface import HistoryFeature, Recipe, RowStates, numeric
from apex_ml.wording import did_you_mean

if TYPE_CHECKING:
    from apex_ml.contract.contradictions import Parts
    from apex_ml.contract.model import Contract

DAYS_A_YEAR = 365.25
DAY_SUM = StateColumn(DAYS, "integer", DaySum())
DAY_SQUARES = StateColumn(DAYS_SQUARED, "integer", DaySum(power=2))


class TargetTrendRecipe(Recipe):
    """Change of a target level's share per year over earlier rows.

    The slope of the level's indicator on time by least squares, with `shrinkage` (in squared years) added to the sum of
    squares of time; 0 when the earlier rows are of fewer than two days.
    """

    recipe: Literal["target_trend"]
    level: str
    shrinkage: float = Field(gt=0, allow_inf_nan=False)

    def features(self, contract: Contract) -> tuple[HistoryFeature, ...]:
        """One feature: the slope, 0 for an entity without history."""
        label = class_labels(contract.classes)[self.level]
        level_days = StateColumn(days_name(label), "integer", DaySum(level=self.level))
        reads = (ROW_COUNT, LATEST_DATE, level_count(contract, self.level), DAY_SUM, DAY_SQUARES, level_days)

        def values(rows: RowStates) -> pa.Array:
            n, _, hits, days, day_squares, hit_days = map(rows.integers, reads)
            last = rows.day(LATEST_DATE)
            return numeric(_slope(n, last, hits, days, day_squares, hit_days, self.shrinkage))

        return (HistoryFeature(FeatureColumn(trend_name(label), "numeric"), reads, values),)

    def products(self) -> tuple[str, ...]:
        """One trend per level."""
        return (f"target_trend of {self.level}",)

    def faults(self, parts: Parts) -> Iterator[tuple[Place, str]]:
        """A level that is not a class."""
        classes = parts.classes
        if classes is not None and self.level not in classes:
            hint = did_you_mean(self.level, classes)
            yield ("level",), f"{self.level} is not a class; the classes are {', '.join(classes)}{hint}"


def _slope(
    n: np.ndarray,
    last: np.ndarray,
    hits: np.ndarray,
    days: np.ndarray,
    day_squares: np.ndarray,
    hit_days: np.ndarray,
    shrinkage: float,
) -> np.ndarray:
    """Slope of a level's indicator on time, a year, shrunk towards 0: ridge regression on one centred variable."""
    # times n and counted from the last row's day, all of it is exact in small integers
    shifted = days - n * last
    squares = n * (day_squares - last * (2 * days - n * last)) - shifted * shifted
    products = n * (hit_days - last * hits) - shifted * hits
    n = np.maximum(n, 1)
    slope: np.ndarray = products / n / DAYS_A_YEAR / (squares / n / DAYS_A_YEAR**2 + shrinkage)
    return slope
