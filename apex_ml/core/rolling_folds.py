"""Rolling-origin folds: fit on what came before, score on what came next."""

from __future__ import annotations

import numpy as np

from apex_ml.core.candidates.interface import Part


def rolling_folds(part: Part, days: np.ndarray | None, folds: int) -> list[tuple[Part, Part]]:
    """Rolling origins: fold i is fitted on the first i of equal blocks in time and scored on the next one."""
    if folds < 2 or days is None:
        return []
    cuts = np.quantile(days, np.linspace(0, 1, folds + 2)[1:-1])
    block = np.searchsorted(cuts, days, side="left")
    pairs = []
    for i in range(1, folds + 1):
        before, after = block < i, block == i
        if before.any() and after.any() and len(np.unique(part.y[before])) > 1:
            pairs.append((Part(part.x[before], part.y[before]), Part(part.x[after], part.y[after])))
    return pairs
