"""Scores of predicted probabilities. Rows of `p` are probability vectors, shape (n, k); `y` are class indexes, (n,)."""

from __future__ import annotations

from typing import Any

import numpy as np

from apex_ml.core.uncertainty import Clusters, bootstrap_interval

SMALLEST_PROBABILITY = 1e-15
"""Floor of a probability before its logarithm; scikit-learn's log_loss does the same in double precision."""


def row_losses(p: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Log loss of every row in nats, shape (n,)."""
    chosen = p[np.arange(len(y)), y].astype(np.float64)
    losses: np.ndarray = -np.log(np.maximum(chosen, SMALLEST_PROBABILITY))
    return losses


def class_shares(y: np.ndarray, classes: int) -> np.ndarray:
    """Share of each class, shape (classes,); a class without rows counts as half a row."""
    counts = np.bincount(y, minlength=classes).astype(np.float64)
    counts = np.maximum(counts, 0.5)
    shares: np.ndarray = counts / counts.sum()
    return shares


def prior_losses(shares: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Log loss of every row under constant class shares, shape (n,)."""
    losses: np.ndarray = -np.log(shares)[y]
    return losses


def classification(p: np.ndarray, y: np.ndarray, classes: tuple[str, ...]) -> dict[str, float]:
    """Log loss, accuracy, macro-F1 and per-class precision, recall, F1 and support of the most probable class."""
    from sklearn.metrics import precision_recall_fscore_support

    predicted = p.argmax(axis=1)
    labels = np.arange(len(classes))
    precision, recall, f1, support = precision_recall_fscore_support(y, predicted, labels=labels, zero_division=0)
    scores = {
        "log_loss": float(row_losses(p, y).mean()),
        "accuracy": float((predicted == y).mean()),
        "macro_f1": float(np.mean(f1)),
    }
    for index, name in enumerate(classes):
        scores[f"precision_{name}"] = float(precision[index])
        scores[f"recall_{name}"] = float(recall[index])
        scores[f"f1_{name}"] = float(f1[index])
        scores[f"support_{name}"] = float(support[index])
    return scores


def against_optimum(
    p: np.ndarray, y: np.ndarray, true: np.ndarray, optimum: np.ndarray, clusters: np.ndarray, *, seed: int
) -> dict[str, float]:
    """Compare the log loss of a model, `p`, with the probabilities that drew the classes and the best possible model.

    All are (n, k). Rows with an unknown `optimum` (NaN) are left out, and `clusters` (n,) are resampled for the
    interval. The excess is in percent of the optimum's loss: as observed, and as expected under the optimum (its
    cross-entropy with `p` over its own entropy), which does not have the noise of the outcomes.
    """
    known = np.isfinite(optimum).all(axis=1)
    if not known.any():
        return {"optimum_rows": 0.0}
    p, y, true, optimum = p[known].astype(np.float64), y[known], true[known], optimum[known]
    losses, best = row_losses(p, y), row_losses(optimum, y)
    low, high = bootstrap_interval(Clusters.of(losses - best, clusters[known]), seed)
    logs, best_logs = (np.log(np.maximum(q, SMALLEST_PROBABILITY)) for q in (p, optimum))
    entropy = -(optimum * best_logs).sum()
    return {
        "optimum_rows": float(len(y)),
        "truth_log_loss": float(row_losses(true, y).mean()),
        "optimum_log_loss": float(best.mean()),
        "excess_percent": float(100 * (losses.mean() / best.mean() - 1)),
        "excess_percent_low": 100 * low / float(best.mean()),
        "excess_percent_high": 100 * high / float(best.mean()),
        "expected_excess_percent": float(100 * (optimum * (best_logs - logs)).sum() / entropy),
    }


def confusion(p: np.ndarray, y: np.ndarray, classes: tuple[str, ...]) -> list[list[int]]:
    """Counts of true class (row) by most probable class (column)."""
    from sklearn.metrics import confusion_matrix

    counts: Any = confusion_matrix(y, p.argmax(axis=1), labels=np.arange(len(classes)))
    result: list[list[int]] = counts.tolist()
    return result
