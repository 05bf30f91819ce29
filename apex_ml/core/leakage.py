"""Detect leaks: features that alone almost determine the target.

A copy of the target, or a column that is filled only afterwards, makes every later metric look excellent and
worthless. A real attribute does not come near: on a hard problem the best one removes a few percent of the class
prior's loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from apex_ml.core.evaluation import class_shares, prior_losses, row_losses
from apex_ml.core.uncertainty import Clusters
from apex_ml.errors import DataError

SMOOTHING = 10.0
"""Rows of the class prior that smooth every level, because a rare level is unreliable."""
BINS = 64
"""Number of equal-mass bins for a number with more distinct values."""
CONFIDENCE = 0.99


@dataclass(frozen=True)
class SingleFeature:
    """Gain of one feature alone: the share of the class prior's log loss that it removes on validation.

    `low` is the one-sided lower bound of `gain`. 1 is a perfect prediction; below 0 is worse than the prior.
    """

    name: str
    gain: float
    low: float

    def as_dict(self) -> dict[str, Any]:
        """Values for JSON."""
        return asdict(self)


def single_feature_gains(
    names: Sequence[str],
    train: tuple[np.ndarray, np.ndarray],
    validation: tuple[np.ndarray, np.ndarray],
    classes: int,
) -> tuple[SingleFeature, ...]:
    """Evaluate every feature alone by a table of class shares, fitted on train and scored on validation, best first.

    Each part is (matrix (n, f), class indexes (n,)). Codes, whole numbers and numbers with few distinct values are
    used as levels; other numbers go into equal-mass bins. An unknown value is a level, too. Shares are smoothed towards
    the class prior.
    """
    (x, y), (xv, yv) = train, validation
    shares = class_shares(y, classes)
    prior = prior_losses(shares, yv)
    gains = []
    for index, name in enumerate(names):
        fitted, scored, size = _levels(x[:, index], xv[:, index])
        counts = np.bincount(fitted * classes + y, minlength=size * classes).reshape(size, classes)
        table = (counts + SMOOTHING * shares) / (counts.sum(axis=1, keepdims=True) + SMOOTHING)
        removed = (prior - row_losses(table[scored], yv)) / prior.mean()
        gain = Clusters.of(removed, None)
        gains.append(SingleFeature(name, gain.mean, gain.lower(1 - CONFIDENCE)))
    return tuple(sorted(gains, key=lambda f: (-f.gain, f.name)))


def _levels(fitted: np.ndarray, scored: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Level of each value of train and of validation, and the number of levels.

    The last two levels are null and a value that train does not have. An empty level has the prior's shares.
    """
    known = np.unique(fitted[~np.isnan(fitted)])
    if len(known) > BINS and (known != np.floor(known)).any():
        edges = np.unique(np.quantile(fitted[~np.isnan(fitted)], np.arange(1, BINS) / BINS))
        size = len(edges) + 3

        def place(values: np.ndarray) -> np.ndarray:
            return np.where(np.isnan(values), size - 2, np.searchsorted(edges, values, side="right"))

        return place(fitted), place(scored), size
    # whole numbers are levels even when there are many, because an id can determine the target by its values
    size = len(known) + 2

    def find(values: np.ndarray) -> np.ndarray:
        places = np.searchsorted(known, values)
        hit = np.append(known, np.nan)[places] == values
        return np.where(np.isnan(values), size - 2, np.where(hit, places, size - 1))

    return find(fitted), find(scored), size


def refuse_leaks(gains: Sequence[SingleFeature], limit: float) -> None:
    """Raise :class:`~apex_ml.errors.DataError` with every feature whose lower bound of the gain is `limit` or more."""
    leaks = [f for f in gains if f.low >= limit]
    if leaks:
        names = ", ".join(f"{f.name} ({f.gain:.0%})" for f in leaks)
        raise DataError(
            f"train: {names} alone removes at least {limit:.0%} of the class prior's log loss. That is a leak: nothing"
            " known in advance predicts so well. Remove it from features in the contract. If it is known in"
            " advance, raise features.suspicious_gain. Nothing was registered"
        )
