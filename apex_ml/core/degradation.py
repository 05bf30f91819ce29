"""Measure the quality of one week's scores, and detect a model that is worse than it was at promotion.

Two rules. The first looks at one week alone and detects a large change at once. The second adds up evidence over weeks
and detects a small lasting change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from scipy.special import logsumexp
from scipy.stats import norm

from apex_ml.core.calibration import expected_calibration_error
from apex_ml.core.evaluation import class_shares, prior_losses, row_losses
from apex_ml.core.uncertainty import Clusters

EXPECTED = "expected"
"""Key of the expectation in a model's recorded metadata."""
CONFIDENCE = 0.95
WEEKS_A_YEAR = 52
"""Weeks in which the rule over several weeks raises a false alarm with a probability of at most `year_alpha`."""
MAX_ERRORS = 2.0
"""Standard errors that one week adds, at most, to the evidence over several weeks."""
MAX_LOG_EVIDENCE = 200.0
"""Upper limit that keeps the evidence finite."""
TOLERATED_SHARE = 0.25
"""Share of the margin that is always tolerated, even when the expectation is known exactly."""
BETTER, AS_EXPECTED, SLIGHTLY_WORSE, WORSE = "better", "as expected", "slightly worse", "worse"
FORMER_ROWS = "orders"
"""Key of the number of rows in the JSON of models of the first edition."""
NOT_EVALUATED, NO_EXPECTATION = "not evaluated", "no expectation"


@dataclass(frozen=True)
class Rule:
    """When a week is worse: by more than `margin` nats than expected, or worse than the class prior; error `alpha`.

    Weeks with fewer than `min_rows` known outcomes are not evaluated. `year_alpha` is the error probability of the
    rule over several weeks, for one year of a model version.
    """

    margin: float = 0.01
    alpha: float = 0.01
    min_rows: int = 500
    year_alpha: float = 0.05


@dataclass(frozen=True)
class Expectation:
    """Log loss on the test part: what monitoring expects of a model. `sd` is the losses' standard deviation.

    `error` is the cluster-robust standard error of `log_loss`. It is None where it is not defined (one entity) and for
    models of earlier versions; then monitoring treats the rows as independent.
    """

    rows: int
    log_loss: float
    sd: float
    error: float | None = None

    @classmethod
    def of(cls, losses: np.ndarray, entities: np.ndarray) -> Self:
        """The expectation from the losses of test rows, (n,), of the entities, (n,)."""
        error = Clusters.of(losses, entities).standard_error
        return cls(len(losses), float(losses.mean()), float(losses.std()), error if np.isfinite(error) else None)

    @property
    def standard_error(self) -> float:
        """Standard error of the expected log loss: the test part has a limited size."""
        return float(self.error or self.sd / np.sqrt(self.rows))

    def as_dict(self) -> dict[str, float]:
        """Values for JSON."""
        values = {"rows": self.rows, "log_loss": self.log_loss, "sd": self.sd}
        return values | ({} if self.error is None else {"error": self.error})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read the result of :meth:`as_dict`."""
        return cls(
            int(values["rows"] if "rows" in values else values[FORMER_ROWS]),
            float(values["log_loss"]),
            float(values["sd"]),
            values.get("error"),
        )


@dataclass(frozen=True)
class ClassQuality:
    """Quality of one predicted class: number of rows of the class, precision, recall and F1."""

    rows: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class WeekQuality:
    """Quality of one week's rows whose outcome is known; `low` and `high` are bounds of 95 % intervals.

    The verdict compares two intervals, `compared` (of the log loss) and `expected`. The week is slightly worse when the
    first is entirely above the second, and worse when it is entirely above `upper_limit`. The error of the log loss,
    and what follows from it, is None when all rows are of one entity.
    """

    outcomes: int
    log_loss: float
    log_loss_low: float | None
    log_loss_high: float | None
    expected_log_loss: float | None
    prior_log_loss: float
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    macro_f1: float
    ece: float
    classes: dict[str, ClassQuality]
    worse: bool
    note: str
    verdict: str
    log_loss_error: float | None
    expected_error: float | None = None
    compared_low: float | None = None
    compared_high: float | None = None
    expected_low: float | None = None
    expected_high: float | None = None
    upper_limit: float | None = None


@dataclass(frozen=True)
class _Comparison:
    """Two intervals, drawn so that they are disjoint exactly when the difference of the means is significant."""

    compared_low: float
    compared_high: float
    expected_low: float
    expected_high: float
    upper_limit: float

    @classmethod
    def of(cls, mean: float, error: float, expected: Expectation, rule: Rule) -> Self:
        doubt = expected.standard_error
        z = float(norm.isf(rule.alpha))
        shrink = z * float(np.hypot(error, doubt)) / (error + doubt) if error + doubt else 0.0
        return cls(
            compared_low=mean - shrink * error,
            compared_high=mean + shrink * error,
            expected_low=expected.log_loss - shrink * doubt,
            expected_high=expected.log_loss + shrink * doubt,
            upper_limit=expected.log_loss + shrink * doubt + rule.margin,
        )

    @property
    def verdict(self) -> str:
        if self.compared_low > self.upper_limit:
            return WORSE
        if self.compared_low > self.expected_high:
            return SLIGHTLY_WORSE
        return BETTER if self.compared_high < self.expected_low else AS_EXPECTED


def week_quality(
    p: np.ndarray,
    y: np.ndarray,
    predicted: np.ndarray,
    entities: np.ndarray,
    classes: tuple[str, ...],
    expected: Expectation | None,
    rule: Rule,
) -> WeekQuality:
    """Evaluate n >= 1 rows: probabilities (n, k), indexes of observed and predicted class (n,), entities (n,).

    The prior is the class shares of the week itself. No model could know them before. A model that is significantly
    worse than this prior does not help to predict the target.
    """
    from sklearn.metrics import precision_recall_fscore_support
    from statsmodels.stats.proportion import proportion_confint

    losses = row_losses(p, y)
    prior = prior_losses(class_shares(y, len(classes)), y)
    mean, error = float(losses.mean()), Clusters.of(losses, entities).standard_error
    is_known = bool(np.isfinite(error))
    half = float(norm.isf((1 - CONFIDENCE) / 2)) * error
    comparison = _Comparison.of(mean, error, expected, rule) if expected and is_known else None
    behind_prior = Clusters.of(losses - prior, entities)
    verdict, note = _verdict(mean, expected, comparison, behind_prior, rule)
    precision, recall, f1, support = precision_recall_fscore_support(
        y, predicted, labels=np.arange(len(classes)), zero_division=0
    )
    hits = int((predicted == y).sum())
    low, high = proportion_confint(hits, len(y), alpha=1 - CONFIDENCE, method="wilson")
    return WeekQuality(
        outcomes=len(y),
        log_loss=mean,
        log_loss_low=mean - half if is_known else None,
        log_loss_high=mean + half if is_known else None,
        expected_log_loss=expected.log_loss if expected else None,
        prior_log_loss=float(prior.mean()),
        accuracy=hits / len(y),
        accuracy_low=float(low),
        accuracy_high=float(high),
        macro_f1=float(np.mean(f1)),
        ece=expected_calibration_error(p, y),
        classes={
            name: ClassQuality(int(support[k]), float(precision[k]), float(recall[k]), float(f1[k]))
            for k, name in enumerate(classes)
        },
        worse=verdict == WORSE,
        note=note,
        verdict=verdict,
        log_loss_error=error if is_known else None,
        expected_error=expected.standard_error if expected else None,
        **({} if comparison is None else vars(comparison)),
    )


def _verdict(
    mean: float, expected: Expectation | None, comparison: _Comparison | None, behind_prior: Clusters, rule: Rule
) -> tuple[str, str]:
    """The verdict on a week and its reasons."""
    if (outcomes := int(behind_prior.sizes.sum())) < rule.min_rows:
        return NOT_EVALUATED, f"not evaluated: {outcomes} known outcomes, fewer than {rule.min_rows}"
    if len(behind_prior) < 2:
        return NOT_EVALUATED, "not evaluated: all known outcomes are of one entity"
    verdict, notes = NO_EXPECTATION if comparison is None else comparison.verdict, []
    if expected and verdict in (WORSE, SLIGHTLY_WORSE):
        within = f", by no more than the margin of {rule.margin:g}" if verdict == SLIGHTLY_WORSE else ""
        notes.append(f"log loss {mean:.4f} against {expected.log_loss:.4f} at promotion{within}")
    if behind_prior.mean > float(norm.isf(rule.alpha)) * behind_prior.standard_error:
        notes.append(f"log loss {mean:.4f} is {behind_prior.mean:.4f} behind the week's class prior")
        verdict = WORSE
    return verdict, "; ".join(notes)


@dataclass(frozen=True)
class Sustained:
    """Evidence, after some week, that a version has been worse than expected for several weeks.

    The alarm is raised at an `evidence` of 1. `first` is the index of the most probable first week of the change,
    `excess` the mean log loss above the expected one since then.
    """

    evidence: float
    first: int
    excess: float

    @property
    def alarm(self) -> bool:
        """Whether the evidence is at least 1."""
        return self.evidence >= 1


def sustained(
    weeks: Sequence[tuple[float, float]], expected: float, expected_error: float, rule: Rule
) -> list[Sustained]:
    """Evidence after each of a version's weeks, given as log loss and its standard error, oldest first.

    The null hypothesis: no week's true log loss is above the expected one by more than a tolerance. The tolerance is
    the error of the expectation itself, at half of `year_alpha`, and at least a quarter of the margin. The alternative,
    for each possible first week: a constant excess since that week, whose size is half normal on the scale of that
    week's error; the evidence is its mixture likelihood ratio. A week counts for at most two of its errors, so that an
    alarm takes five weeks or more: the first rule detects a single bad week. Each ratio is a supermartingale under the
    null hypothesis. Therefore their sum exceeds 52 / (`year_alpha` / 2) within 52 weeks with a probability of at most
    the other half of `year_alpha`.

    Sources: Robbins, Annals of Mathematical Statistics 1970 (mixture ratios); Shin, Ramdas and Rinaldo, E-detectors,
    New England Journal of Statistics in Data Science 2023 (their sum over first weeks, after Shiryaev and Roberts).
    """
    share = rule.year_alpha / 2
    tolerance = max(float(norm.isf(share)) * expected_error, TOLERATED_SHARE * rule.margin)
    losses, errors = (np.array([week[place] for week in weeks], float) for place in (0, 1))
    errors = np.maximum(errors, 1e-9)
    excess = losses - expected
    counted = np.minimum(excess - tolerance, MAX_ERRORS * errors)
    evidence_by_week = []
    for last in range(len(weeks)):
        weights = 1 / errors[: last + 1] ** 2
        # for each first week: the sum over all weeks from it to the last one
        total = np.cumsum(weights[::-1])[::-1]
        mean, d = (np.cumsum((weights * x[: last + 1])[::-1])[::-1] / total for x in (excess, counted))
        v, scale = 1 / total, errors[: last + 1] ** 2
        logs = np.log(2) + 0.5 * np.log(v / (v + scale)) + d**2 * scale / (2 * v * (v + scale))
        logs += norm.logcdf(d * np.sqrt(scale / (v * (v + scale))))
        first = int(logs.argmax())
        evidence = float(np.exp(min(float(logsumexp(logs)) + np.log(share / WEEKS_A_YEAR), MAX_LOG_EVIDENCE)))
        evidence_by_week.append(Sustained(evidence, first, float(mean[first])))
    return evidence_by_week


def degraded(worse: Sequence[bool], *, weeks: int, of: int) -> bool:
    """Whether at least `weeks` of the newest `of` evaluated weeks, oldest first, were worse.

    >>> degraded([True, False, False, True, True], weeks=2, of=3), degraded([True, True, False, False], weeks=2, of=3)
    (True, False)
    """
    return sum(worse[-of:]) >= weeks
