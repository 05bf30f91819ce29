"""Scores of the probability of one class against the other: AUC, average precision, and what each threshold gives.

`score` is the probability of the positive class, shape (n,), and `is_positive` whether a row is of it, (n,).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from apex_ml.core.uncertainty import Clusters, bootstrap_interval

THRESHOLDS = tuple(round(0.01 * step, 2) for step in range(1, 100))


@dataclass(frozen=True)
class Threshold:
    """The scores when a row counts as positive from a probability on.

    `false_positive_rate` is the share of the negative rows that are predicted positive. `cost` is the mean cost of a
    row, None without costs. Precision is None where no row is predicted positive.
    """

    threshold: float
    rows: int
    """Rows that are predicted positive."""
    precision: float | None
    recall: float
    f1: float
    accuracy: float
    false_positive_rate: float
    cost: float | None = None


def binary_scores(score: np.ndarray, is_positive: np.ndarray, entities: np.ndarray, seed: int) -> dict[str, float]:
    """AUC with its 95 % interval, and average precision with the share of positive rows, which chance would give.

    Empty where all rows are of one class, of which no order can be wrong. The interval resamples entities, by the
    linear form of the AUC in DeLong, DeLong and Clarke-Pearson, Biometrics 1988.
    """
    from sklearn.metrics import average_precision_score

    if is_positive.all() or not is_positive.any():
        return {}
    area, influence = _area(score, is_positive)
    low, high = bootstrap_interval(Clusters.of(area + influence, entities), seed)
    return {
        "auc": area,
        "auc_low": low,
        "auc_high": min(high, 1.0),
        "average_precision": float(average_precision_score(is_positive, score)),
        "positive_share": float(is_positive.mean()),
    }


def auc(score: np.ndarray, is_positive: np.ndarray) -> float | None:
    """Area under the ROC curve; None where all rows are of one class."""
    return None if is_positive.all() or not is_positive.any() else _area(score, is_positive)[0]


def _area(score: np.ndarray, is_positive: np.ndarray) -> tuple[float, np.ndarray]:
    """AUC, and the influence of each row on it, shape (n,), whose mean is 0.

    Ranks give the share of the other class that a row is above, with ties counted by half: Sun and Xu, IEEE Signal
    Processing Letters 2014.
    """
    from scipy.stats import rankdata

    positive, negative = np.flatnonzero(is_positive), np.flatnonzero(~is_positive)
    ranks = rankdata(score)
    above_negative = (ranks[positive] - rankdata(score[positive])) / len(negative)
    below_positive = 1 - (ranks[negative] - rankdata(score[negative])) / len(positive)
    area = float(above_negative.mean())
    influence = np.empty(len(score))
    influence[positive] = (above_negative - area) * len(score) / len(positive)
    influence[negative] = (below_positive - area) * len(score) / len(negative)
    return area, influence


def threshold_table(
    score: np.ndarray, is_positive: np.ndarray, error_costs: tuple[float, float] | None = None
) -> list[Threshold]:
    """The scores of every threshold of THRESHOLDS. `error_costs` are those of a false positive and a false negative."""
    positives, negatives = int(is_positive.sum()), int((~is_positive).sum())
    rows = []
    for threshold in THRESHOLDS:
        predicted = score >= threshold
        hits = int((predicted & is_positive).sum())
        false_alarms = int(predicted.sum()) - hits
        misses = positives - hits
        rows.append(
            Threshold(
                threshold=threshold,
                rows=hits + false_alarms,
                precision=hits / (hits + false_alarms) if hits + false_alarms else None,
                recall=hits / max(positives, 1),
                f1=2 * hits / max(2 * hits + false_alarms + misses, 1),
                accuracy=1 - (false_alarms + misses) / max(len(score), 1),
                false_positive_rate=false_alarms / max(negatives, 1),
                cost=None
                if error_costs is None
                else (false_alarms * error_costs[0] + misses * error_costs[1]) / max(len(score), 1),
            )
        )
    return rows
