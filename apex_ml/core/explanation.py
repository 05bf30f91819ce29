"""What a model's probabilities depend on: contributions of features, and the loss when one is permuted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from apex_ml.core.estimator import Model
from apex_ml.core.evaluation import row_losses
from apex_ml.core.examples import Examples

EXPLAINED_ROWS = 2_000
"""Rows of the test part whose contributions are averaged: enough for two digits of each mean."""


@dataclass(frozen=True)
class Contribution:
    """Mean absolute contribution of a feature to the margin of each class, over `rows` rows."""

    feature: str
    classes: dict[str, float]
    rows: int


def mean_contributions(model: Model, table: pa.Table, seed: int, rows: int = EXPLAINED_ROWS) -> list[Contribution]:
    """Mean absolute contribution of each feature to the margin of each class, largest sum over the classes first.

    In log odds before calibration, on at most `rows` rows drawn without replacement. Empty when the candidate has no
    contributions.
    """
    n = table.num_rows
    chosen = np.arange(n) if n <= rows else np.sort(np.random.default_rng(seed).choice(n, rows, replace=False))
    contributions = model.contributions(table.take(pa.array(chosen)))
    if contributions is None:
        return []
    mean = np.abs(contributions).mean(axis=0, dtype=np.float64)
    ranking = np.argsort(-mean.sum(axis=0), kind="stable")
    names = model.encoder.names
    return [
        Contribution(names[i], dict(zip(model.classes, mean[:, i].tolist(), strict=True)), len(chosen)) for i in ranking
    ]


def permutation_importance(model: Model, part: Examples, seed: int, repeats: int = 3) -> dict[str, float]:
    """Mean increase of the log loss when a feature is permuted, in nats (Breiman, Random Forests, 2001)."""
    rng = np.random.default_rng(seed)
    base = float(row_losses(model.probabilities(part.table), part.y).mean())
    rises: dict[str, float] = {}
    for name in model.encoder.names:
        increases = []
        for _ in range(repeats):
            place = part.table.schema.get_field_index(name)
            shuffled = part.table.column(name).take(pa.array(rng.permutation(part.table.num_rows)))
            table = part.table.set_column(place, part.table.schema.field(place), shuffled)
            increases.append(float(row_losses(model.probabilities(table), part.y).mean()) - base)
        rises[name] = float(np.mean(increases))
    return rises
