"""How good the scores of one week turned out, and whether a model has become worse than it was promoted for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import norm
from sklearn.metrics import precision_recall_fscore_support
from statsmodels.stats.proportion import proportion_confint

from apex_ml.core.calibration import expected_calibration_error
from apex_ml.core.evaluation import class_shares, order_losses, prior_losses

EXPECTED = "expected"
"""Key of a model's quality on its test part in what is told about it: orders, log_loss and the losses' deviation sd."""
LEVEL = 0.95


@dataclass(frozen=True)
class Rule:
    """When a week is worse: than expected by more than `margin` nats, or than the prior; with an error of `alpha`.

    Weeks of fewer than `least_orders` known outcomes are not judged.
    """

    margin: float = 0.01
    alpha: float = 0.01
    least_orders: int = 500


@dataclass(frozen=True)
class WeekQuality:
    """Figures of the orders of one week whose outcome is known; low and high bound 95 % intervals."""

    outcomes: int
    log_loss: float
    log_loss_low: float
    log_loss_high: float
    expected_log_loss: float | None
    prior_log_loss: float
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    macro_f1: float
    ece: float
    classes: dict[str, dict[str, float]]
    worse: bool
    note: str


def clustered_error(values: np.ndarray, clusters: np.ndarray) -> float:
    """Standard error of the mean of `values` (n,) when orders of one cluster (client) may go together.

    Source: Liang and Zeger, Biometrika 1986, for a mean: √ Σ over clusters of (Σ (value - mean))², over n.
    """
    _, codes = np.unique(clusters, return_inverse=True)
    sums = np.bincount(codes, weights=values - values.mean())
    return float(np.sqrt((sums**2).sum()) / len(values))


def week_quality(
    p: np.ndarray,
    y: np.ndarray,
    named: np.ndarray,
    clusters: np.ndarray,
    classes: tuple[str, ...],
    expected: Mapping[str, Any] | None,
    rule: Rule,
) -> WeekQuality:
    """Judge n >= 1 orders: probabilities (n, k), class indexes that came and that were named (n,), clients (n,).

    The prior is the class shares of the week itself, which no model could know before: to be worse than it, beyond
    chance, is to tell nothing.
    """
    losses = order_losses(p, y)
    prior = prior_losses(class_shares(y, len(classes)), y)
    mean, error = float(losses.mean()), clustered_error(losses, clusters)
    half = float(norm.isf((1 - LEVEL) / 2)) * error
    precision, recall, f1, support = precision_recall_fscore_support(
        y, named, labels=np.arange(len(classes)), zero_division=0
    )
    hits = int((named == y).sum())
    low, high = proportion_confint(hits, len(y), alpha=1 - LEVEL, method="wilson")
    notes = []
    if len(y) < rule.least_orders:
        notes.append(f"not judged: fewer than {rule.least_orders} known outcomes")
    else:
        z = float(norm.isf(rule.alpha))
        if expected:
            spread = float(np.hypot(error, expected["sd"] / np.sqrt(expected["orders"])))
            beyond = mean - expected["log_loss"] - rule.margin
            if beyond > z * spread:
                notes.append(f"log loss {mean:.4f} against {expected['log_loss']:.4f} at promotion")
        if (behind := mean - float(prior.mean())) > z * clustered_error(losses - prior, clusters):
            notes.append(f"log loss {mean:.4f} is {behind:.4f} behind the week's class prior")
    return WeekQuality(
        outcomes=len(y),
        log_loss=mean,
        log_loss_low=mean - half,
        log_loss_high=mean + half,
        expected_log_loss=float(expected["log_loss"]) if expected else None,
        prior_log_loss=float(prior.mean()),
        accuracy=hits / len(y),
        accuracy_low=float(low),
        accuracy_high=float(high),
        macro_f1=float(np.mean(f1)),
        ece=expected_calibration_error(p, y),
        classes={
            name: {
                "orders": int(support[k]),
                "precision": float(precision[k]),
                "recall": float(recall[k]),
                "f1": float(f1[k]),
            }
            for k, name in enumerate(classes)
        },
        worse=bool(notes) and len(y) >= rule.least_orders,
        note="; ".join(notes),
    )


def degraded(worse: Sequence[bool], *, weeks: int, of: int) -> bool:
    """Whether at least `weeks` of the newest `of` judged weeks, oldest first, were worse.

    >>> degraded([True, False, False, True, True], weeks=2, of=3), degraded([True, True, False, False], weeks=2, of=3)
    (True, False)
    """
    return sum(worse[-of:]) >= weeks
