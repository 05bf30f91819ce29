"""Inputs of the gate: the holdout, the models, and what Apex can serve."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from apex_ml.core.promotion.evidence import SeenRows


@dataclass(frozen=True)
class Holdout:
    """The newest rows with a known outcome.

    `y` are class indexes (n,), `prior` the class shares of the challenger's training (k,), `entities` the clusters
    (n,), `days` the rows' days (n,), `segments` levels by the name of an attribute, (n,) each. `rows` are keys of
    the rows, as in :func:`~apex_ml.core.training_keys.row_keys`. `optimum` are the losses of the best possible
    model, (n,), from a simulator; NaN where it is unknown.
    """

    y: np.ndarray
    prior: np.ndarray
    entities: np.ndarray | None = None
    days: np.ndarray | None = None
    segments: Mapping[str, np.ndarray] = field(default_factory=dict)
    rows: np.ndarray | None = None
    optimum: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.y)

    def take(self, rows: np.ndarray) -> Holdout:
        """The chosen rows."""

        def of(values: np.ndarray | None) -> np.ndarray | None:
            return None if values is None else values[rows]

        return Holdout(
            self.y[rows],
            self.prior,
            of(self.entities),
            of(self.days),
            {name: levels[rows] for name, levels in self.segments.items()},
            of(self.rows),
            of(self.optimum),
        )


@dataclass(frozen=True)
class Contender:
    """A model under comparison: its probabilities on the holdout, (n, k), and the facts that the gate needs.

    `tuned_until` is the last day of its training and validation; `as_of` the point in time of its data; both in days
    since 1970-01-01. `training_keys` are the sorted keys of the rows that it was fitted and tuned on. `promotable` is
    False for a run whose split leaks the future; then only the keys decide. `weights` are its decision weights.
    """

    p: np.ndarray
    classes: tuple[str, ...]
    features: tuple[str, ...] = ()
    tuned_until: int | None = None
    as_of: int | None = None
    us_per_row: float | None = None
    promotable: bool = True
    training_keys: np.ndarray | None = None
    weights: tuple[float, ...] = ()

    def has_seen(self, holdout: Holdout) -> np.ndarray:
        """Whether the model was fitted or tuned on each holdout row, (n,)."""
        is_known = np.zeros(len(holdout), bool)
        if self.tuned_until is not None and holdout.days is not None and self.promotable:
            is_known |= holdout.days <= self.tuned_until
        if self.training_keys is not None and holdout.rows is not None:
            is_known |= np.isin(holdout.rows, self.training_keys)
        return is_known


@dataclass(frozen=True)
class Serving:
    """Classes and features of the contract, which the tables and the API can serve."""

    classes: tuple[str, ...]
    features: tuple[str, ...]


def drop_seen(
    challenger: Contender, champion: Contender | None, holdout: Holdout
) -> tuple[np.ndarray, np.ndarray | None, Holdout, SeenRows]:
    """Drop the rows that either model was fitted or tuned on, by their dates and by their keys, and count them."""
    theirs = None if champion is None else champion.p
    ours_seen = challenger.has_seen(holdout)
    theirs_seen = np.zeros(len(holdout), bool) if champion is None else champion.has_seen(holdout)
    dropped = ours_seen | theirs_seen
    seen_rows = SeenRows(int(dropped.sum()), int(ours_seen.sum()), int(theirs_seen.sum()))
    if not dropped.any():
        return challenger.p, theirs, holdout, seen_rows
    kept = np.flatnonzero(~dropped)
    return challenger.p[kept], None if theirs is None else theirs[kept], holdout.take(kept), seen_rows
