"""The random split with equal class shares. It is for comparison only; its models are never promotable."""

from __future__ import annotations

import numpy as np

from apex_ml.contract.split import Split
from apex_ml.core.split import stratified_random
from apex_ml.core.strategies.interface import SplitStrategy


class StratifiedRandom(SplitStrategy):
    """Parts drawn at random, class by class."""

    name = "stratified_random"

    def assign(self, days: np.ndarray, target: np.ndarray, split: Split, seed: int) -> np.ndarray:
        """Draw the test part, then validation from the rest."""
        return stratified_random(target, split, seed)


STRATEGY = StratifiedRandom()
