"""Inputs of the gate: the holdout, the models, and what Apex can serve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from apex_ml.core.decision import Costs
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
    False for a run whose split leaks the future; then only the keys decide. `weights` or `costs` choose its class.
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
    costs: Costs = ()

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


def in_classes(p: np.ndarray, classes: Sequence[str], among: Sequence[str]) -> np.ndarray:
    """Probabilities (n, k) with a column for each class of `among`, in its order; 0 for a class that they lack."""
    aligned = np.zeros((len(p), len(among)), p.dtype)
    for place, level in enumerate(among):
        if level in classes:
            aligned[:, place] = p[:, classes.index(level)]
    return aligned


def over_shared_classes(
    challenger: Contender, champion: Contender, holdout: Holdout, classes: tuple[str, ...]
) -> tuple[Contender, Contender, Holdout]:
    """Both models on the rows of the classes that both know, by their probabilities given that it is one of those.

    `holdout.y` are indexes of `classes`, of which the champion may know some only.
    """
    shared = tuple(level for level in classes if level in champion.classes)
    places = np.array([shared.index(level) if level in shared else -1 for level in classes])
    rows = np.flatnonzero(places[holdout.y] >= 0)
    taken = holdout.take(rows)
    prior = in_classes(np.asarray([taken.prior]), classes, shared)[0]
    # the optimum is that of all classes
    taken = replace(taken, y=places[taken.y], prior=prior / prior.sum(), optimum=None)
    return _restricted(challenger, shared, rows), _restricted(champion, shared, rows), taken


def _restricted(model: Contender, classes: tuple[str, ...], rows: np.ndarray) -> Contender:
    p = in_classes(model.p[rows], model.classes, classes)
    p = p / np.maximum(p.sum(axis=1, keepdims=True), np.finfo(p.dtype).tiny)
    places = [model.classes.index(level) for level in classes]
    weights = tuple(model.weights[place] for place in places) if model.weights else ()
    costs = tuple(tuple(model.costs[actual][place] for place in places) for actual in places) if model.costs else ()
    return replace(model, p=p, classes=classes, weights=weights, costs=costs)


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
