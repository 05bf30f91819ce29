"""Features that know too much: each is judged alone, and one that all but tells the target is a leak.

A copy of the target, or a column that is filled only after the order, makes every later number look wonderful and means
nothing. No honest attribute comes near: the best one of a hard problem removes a few hundredths of the class prior's
loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from apex_ml.core.evaluation import class_shares, order_losses, prior_losses
from apex_ml.core.uncertainty import Clusters
from apex_ml.errors import DataError

SMOOTHING = 10.0
"""Orders of the class prior that are added to every level: one seen a few times says little."""
BINS = 64
"""Equal-mass bins of a number with more values than that."""
CONFIDENCE = 0.99


@dataclass(frozen=True)
class SingleFeature:
    """What one feature knows alone: the share of the class prior's log loss that it removes on validation.

    `low` is the one-sided lower bound of `gain`; 1 would be a perfect prediction, below 0 is worse than the prior.
    """

    name: str
    gain: float
    low: float

    def as_dict(self) -> dict[str, Any]:
        """JSON-able values."""
        return asdict(self)


def single_feature_gains(
    names: Sequence[str],
    train: tuple[np.ndarray, np.ndarray],
    validation: tuple[np.ndarray, np.ndarray],
    classes: int,
) -> tuple[SingleFeature, ...]:
    """Judge every feature alone by a table of class shares, fitted on train and scored on validation, best first.

    Each part is (matrix (n, f), class indexes (n,)). Codes, whole numbers and numbers with few different values are
    levels as they are, other numbers go into equal-mass bins; what is not known is a level. Shares are smoothed
    towards the class prior.
    """
    (x, y), (xv, yv) = train, validation
    shares = class_shares(y, classes)
    prior = prior_losses(shares, yv)
    found = []
    for index, name in enumerate(names):
        fitted, asked, size = _levels(x[:, index], xv[:, index])
        counts = np.bincount(fitted * classes + y, minlength=size * classes).reshape(size, classes)
        table = (counts + SMOOTHING * shares) / (counts.sum(axis=1, keepdims=True) + SMOOTHING)
        removed = (prior - order_losses(table[asked], yv)) / prior.mean()
        gain = Clusters.of(removed, None)
        found.append(SingleFeature(name, gain.mean, gain.lower(1 - CONFIDENCE)))
    return tuple(sorted(found, key=lambda f: (-f.gain, f.name)))


def _levels(fitted: np.ndarray, asked: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Level of each value of train and of validation, and the number of levels.

    The last two are the unknown and a value that train does not have; an empty level has the prior's shares.
    """
    known = np.unique(fitted[~np.isnan(fitted)])
    if len(known) > BINS and (known != np.floor(known)).any():
        edges = np.unique(np.quantile(fitted[~np.isnan(fitted)], np.arange(1, BINS) / BINS))
        size = len(edges) + 3

        def place(values: np.ndarray) -> np.ndarray:
            return np.where(np.isnan(values), size - 2, np.searchsorted(edges, values, side="right"))

        return place(fitted), place(asked), size
    # whole numbers are levels even when there are many: an id that tells the target does so by its very values
    size = len(known) + 2

    def find(values: np.ndarray) -> np.ndarray:
        places = np.searchsorted(known, values)
        hit = np.append(known, np.nan)[places] == values
        return np.where(np.isnan(values), size - 2, np.where(hit, places, size - 1))

    return find(fitted), find(asked), size


def refuse_leaks(found: Sequence[SingleFeature], limit: float) -> None:
    """Raise :class:`~apex_ml.errors.DataError` naming every feature that surely gains `limit` or more alone."""
    leaks = [f for f in found if f.low >= limit]
    if leaks:
        named = ", ".join(f"{f.name} ({f.gain:.0%})" for f in leaks)
        raise DataError(
            f"train: {named} alone removes at least {limit:.0%} of the class prior's log loss, more than anything known"
            " before the order can: it tells the target. Take it out of features in the contract, or, if it is honest,"
            " raise features.suspicious_gain; nothing was registered"
        )
