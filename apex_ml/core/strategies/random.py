"""The random split by the identity of a row: promotable for rows without a date, which have no future to leak."""

from __future__ import annotations

import numpy as np
import pandas as pd

from apex_ml.contract.model import Contract
from apex_ml.contract.split import Split
from apex_ml.core.strategies.interface import SplitStrategy


class Random(SplitStrategy):
    """Each entity, or row without one, belongs to one part, by a hash of it and of the seed.

    A row is in the same part in every run, so that a champion has not learned from the test rows of its challenger.
    """

    name = "random"

    def is_promotable(self, contract: Contract) -> bool:
        """Only without dates: otherwise training rows would be newer than test rows."""
        return not contract.has_timestamp

    def assign(self, days: np.ndarray, target: np.ndarray, split: Split, seed: int) -> np.ndarray:
        """Draw a number for each row, by its place."""
        return self.assign_rows(days, target, np.arange(len(target)), split, seed)

    def assign_rows(
        self, days: np.ndarray, target: np.ndarray, entities: np.ndarray, split: Split, seed: int
    ) -> np.ndarray:
        """Draw a number for each entity."""
        keys = pd.util.hash_pandas_object(pd.DataFrame({"entity": entities, "seed": seed}), index=False).to_numpy()
        shares = keys.astype(np.float64) / 2.0**64
        parts = np.zeros(len(target), np.int8)
        parts[shares >= split.fractions.train] = 1
        parts[shares >= split.fractions.train + split.fractions.validation] = 2
        return parts


STRATEGY = Random()
