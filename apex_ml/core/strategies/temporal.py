"""The temporal split: train before validation before test. Of rows with a date only its models can be promoted."""

from __future__ import annotations

import numpy as np

from apex_ml.contract.split import Split
from apex_ml.core.split import temporal
from apex_ml.core.strategies.interface import SplitStrategy


class Temporal(SplitStrategy):
    """Every day belongs to one part."""

    name = "temporal"
    promotable = True
    needs = ("timestamp",)
    without_needs = "random"

    def assign(self, days: np.ndarray, target: np.ndarray, split: Split, seed: int) -> np.ndarray:
        """Cut by day."""
        return temporal(days, split)[0]


STRATEGY = Temporal()
