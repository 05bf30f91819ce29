"""Scores of predicted probabilities. Rows of `p` are probability vectors, shape (n, k); `y` are class indexes, (n,)."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

SMALLEST_PROBABILITY = 1e-15
"""Floor under a probability before its logarithm; scikit-learn's log_loss does the same in double precision."""


def order_losses(p: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Log loss of every order in nats, shape (n,)."""
    chosen = p[np.arange(len(y)), y].astype(np.float64)
    losses: np.ndarray = -np.log(np.maximum(chosen, SMALLEST_PROBABILITY))
    return losses


def class_shares(y: np.ndarray, classes: int) -> np.ndarray:
    """Share of each class, shape (classes,); a class without orders gets half of one: no loss is infinite."""
    counts = np.bincount(y, minlength=classes).astype(np.float64)
    counts = np.maximum(counts, 0.5)
    shares: np.ndarray = counts / counts.sum()
    return shares


def prior_losses(shares: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Log loss of every order under constant class shares, shape (n,)."""
    losses: np.ndarray = -np.log(shares)[y]
    return losses


def classification(p: np.ndarray, y: np.ndarray, classes: tuple[str, ...]) -> dict[str, float]:
    """Log loss, accuracy, macro-F1 and per-class precision, recall, F1 and support of the most probable class."""
    predicted = p.argmax(axis=1)
    labels = np.arange(len(classes))
    precision, recall, f1, support = precision_recall_fscore_support(y, predicted, labels=labels, zero_division=0)
    scores = {
        "log_loss": float(order_losses(p, y).mean()),
        "accuracy": float((predicted == y).mean()),
        "macro_f1": float(np.mean(f1)),
    }
    for index, name in enumerate(classes):
        scores[f"precision_{name}"] = float(precision[index])
        scores[f"recall_{name}"] = float(recall[index])
        scores[f"f1_{name}"] = float(f1[index])
        scores[f"support_{name}"] = float(support[index])
    return scores


def confusion(p: np.ndarray, y: np.ndarray, classes: tuple[str, ...]) -> list[list[int]]:
    """Counts of true class (row) by most probable class (column)."""
    counts: Any = confusion_matrix(y, p.argmax(axis=1), labels=np.arange(len(classes)))
    result: list[list[int]] = counts.tolist()
    return result


def clustered_interval(
    values: np.ndarray, clusters: np.ndarray, *, seed: int, level: float = 0.95, repeats: int = 1000
) -> tuple[float, float]:
    """Bootstrap interval of the mean of `values`, shape (n,), resampling whole clusters (clients).

    Source: the cluster bootstrap of Field and Welsh, Bootstrapping clustered data, JRSS B 2007. Percentile interval.
    """
    _, codes = np.unique(clusters, return_inverse=True)
    sums = np.bincount(codes, weights=values)
    sizes = np.bincount(codes).astype(np.float64)
    rng = np.random.default_rng(seed)
    means = np.empty(repeats)
    for i in range(repeats):
        chosen = rng.integers(0, len(sums), len(sums))
        means[i] = sums[chosen].sum() / sizes[chosen].sum()
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)
