"""How good the scores of one week turned out, and whether a model has become worse than it was promoted for.

Two rules. One looks at a week alone and sees a large change at once. The other adds up evidence over weeks and sees a
small change that stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import logsumexp
from scipy.stats import norm
from sklearn.metrics import precision_recall_fscore_support
from statsmodels.stats.proportion import proportion_confint

from apex_ml.core.calibration import expected_calibration_error
from apex_ml.core.evaluation import class_shares, order_losses, prior_losses

EXPECTED = "expected"
"""Key of a model's quality on its test part in what is told about it: orders, log_loss, its standard error, and the
losses' deviation sd. Models of earlier versions have no error."""
LEVEL = 0.95
YEAR = 52
"""Weeks in which the rule over several weeks raises a false alarm with a probability of at most `year_alpha`."""
MAX_ERRORS = 2.0
"""So many of its standard errors a week adds to the evidence over several weeks at most."""
MAX_LOG_EVIDENCE = 200.0
"""So that evidence stays a finite number."""
TOLERATED = 0.25
"""Share of the margin by which a model may be worse for ever, even when its expectation is known exactly."""
BETTER, AS_EXPECTED, SLIGHTLY_WORSE, WORSE = "better", "as expected", "slightly worse", "worse"
NOT_EVALUATED, NO_EXPECTATION = "not evaluated", "no expectation"


@dataclass(frozen=True)
class Rule:
    """When a week is worse: than expected by more than `margin` nats, or than the prior; with an error of `alpha`.

    Weeks of fewer than `least_orders` known outcomes are not judged. `year_alpha` is the error of the rule over several
    weeks, in a year of a version.
    """

    margin: float = 0.01
    alpha: float = 0.01
    least_orders: int = 500
    year_alpha: float = 0.05


@dataclass(frozen=True)
class WeekQuality:
    """Figures of the orders of one week whose outcome is known; low and high bound 95 % intervals.

    The `compared` interval of the log loss and the `expected` interval are those that the verdict compares: the week is
    slightly worse when the first lies wholly above the second, worse when it lies wholly above `upper_limit`.
    """

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
    verdict: str
    log_loss_error: float
    expected_error: float | None = None
    compared_low: float | None = None
    compared_high: float | None = None
    expected_low: float | None = None
    expected_high: float | None = None
    upper_limit: float | None = None


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
    bounds: dict[str, float] = {}
    verdict = NO_EXPECTATION
    z = float(norm.isf(rule.alpha))
    if expected:
        promised, doubt = float(expected["log_loss"]), expectation_error(expected)
        # so drawn, two intervals miss each other exactly when the difference is significant
        shrink = z * float(np.hypot(error, doubt)) / (error + doubt) if error + doubt else 0.0
        bounds = {
            "expected_error": doubt,
            "compared_low": mean - shrink * error,
            "compared_high": mean + shrink * error,
            "expected_low": promised - shrink * doubt,
            "expected_high": promised + shrink * doubt,
            "upper_limit": promised + shrink * doubt + rule.margin,
        }
        verdict = _verdict(bounds)
    if len(y) < rule.least_orders:
        notes.append(f"not judged: fewer than {rule.least_orders} known outcomes")
        verdict = NOT_EVALUATED
    else:
        if expected and verdict in (WORSE, SLIGHTLY_WORSE):
            within = f", by no more than the margin of {rule.margin:g}" if verdict == SLIGHTLY_WORSE else ""
            notes.append(f"log loss {mean:.4f} against {expected['log_loss']:.4f} at promotion{within}")
        if (behind := mean - float(prior.mean())) > z * clustered_error(losses - prior, clusters):
            notes.append(f"log loss {mean:.4f} is {behind:.4f} behind the week's class prior")
            verdict = WORSE
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
        worse=verdict == WORSE,
        note="; ".join(notes),
        verdict=verdict,
        log_loss_error=error,
        **bounds,
    )


def _verdict(bounds: Mapping[str, float]) -> str:
    if bounds["compared_low"] > bounds["upper_limit"]:
        return WORSE
    if bounds["compared_low"] > bounds["expected_high"]:
        return SLIGHTLY_WORSE
    return BETTER if bounds["compared_high"] < bounds["expected_low"] else AS_EXPECTED


def expectation_error(expected: Mapping[str, Any]) -> float:
    """Standard error of a model's expected log loss, which comes from a test part of limited size."""
    return float(expected.get("error") or expected["sd"] / np.sqrt(expected["orders"]))


@dataclass(frozen=True)
class Sustained:
    """Evidence, after some week, that a version is worse than expected for several weeks by now.

    `evidence` is 1 at the alarm. `first` is the index of the week since which it most probably is so, `excess` the mean
    log loss above the expected one since then.
    """

    evidence: float
    first: int
    excess: float

    @property
    def alarm(self) -> bool:
        """Whether the evidence is enough."""
        return self.evidence >= 1


def sustained(
    weeks: Sequence[tuple[float, float]], expected: float, expected_error: float, rule: Rule
) -> list[Sustained]:
    """Evidence after each of a version's weeks, given as log loss and its standard error, oldest first.

    The null hypothesis is that no week's true log loss is above the expected one by more than a tolerance: what the
    expectation itself may be wrong by, with half of `year_alpha`, and at least a quarter of the margin. Against it, for
    each week as a first one, stands the mixture likelihood ratio of a constant excess since that week, whose size is
    half normal on the scale of that week's error. A week counts for at most two of its errors, so that it takes five
    weeks or more: one bad week is the other rule's. Each ratio is a supermartingale under the null, so that their sum
    exceeds 52 / (`year_alpha` / 2) within 52 weeks with a probability of at most the other half.

    Sources: Robbins, Annals of Mathematical Statistics 1970 (mixture ratios); Shin, Ramdas and Rinaldo, E-detectors,
    New England Journal of Statistics in Data Science 2023 (their sum over first weeks, after Shiryaev and Roberts).
    """
    share = rule.year_alpha / 2
    tolerance = max(float(norm.isf(share)) * expected_error, TOLERATED * rule.margin)
    losses, errors = (np.array([week[place] for week in weeks], float) for place in (0, 1))
    errors = np.maximum(errors, 1e-9)
    excess = losses - expected
    counted = np.minimum(excess - tolerance, MAX_ERRORS * errors)
    found = []
    for last in range(len(weeks)):
        weights = 1 / errors[: last + 1] ** 2
        # by first week: all weeks from it to the last one
        total = np.cumsum(weights[::-1])[::-1]
        mean, d = (np.cumsum((weights * x[: last + 1])[::-1])[::-1] / total for x in (excess, counted))
        v, scale = 1 / total, errors[: last + 1] ** 2
        logs = np.log(2) + 0.5 * np.log(v / (v + scale)) + d**2 * scale / (2 * v * (v + scale))
        logs += norm.logcdf(d * np.sqrt(scale / (v * (v + scale))))
        first = int(logs.argmax())
        evidence = float(np.exp(min(float(logsumexp(logs)) + np.log(share / YEAR), MAX_LOG_EVIDENCE)))
        found.append(Sustained(evidence, first, float(mean[first])))
    return found


def degraded(worse: Sequence[bool], *, weeks: int, of: int) -> bool:
    """Whether at least `weeks` of the newest `of` judged weeks, oldest first, were worse.

    >>> degraded([True, False, False, True, True], weeks=2, of=3), degraded([True, True, False, False], weeks=2, of=3)
    (True, False)
    """
    return sum(worse[-of:]) >= weeks
