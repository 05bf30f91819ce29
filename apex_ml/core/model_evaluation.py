"""Evaluate a model: the log loss of every part, and the test part in full."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from apex_ml.core import calibration as calibrating
from apex_ml.core import decision
from apex_ml.core.binary import Threshold, binary_scores, threshold_table
from apex_ml.core.estimator import Model, Prediction
from apex_ml.core.evaluation import class_shares, classification, confusion, prior_losses, row_losses
from apex_ml.core.examples import Examples
from apex_ml.core.explanation import Contribution, mean_contributions, permutation_importance
from apex_ml.core.uncertainty import Clusters, bootstrap_interval
from apex_ml.errors import DataError


@dataclass(frozen=True)
class SegmentLoss:
    """Log loss of the rows with one value of a column, of the model and of the class prior."""

    value: str
    rows: int
    log_loss: float
    prior_log_loss: float


Reliability = list[list[tuple[float, float, int]]]
"""For each class, bins of (mean probability, observed share, rows)."""


@dataclass(frozen=True)
class ComparedWay:
    """Scores of one way to make a model, with its number of features; all but the first loss are of the test part."""

    way: str
    features: int
    validation_log_loss: float
    test_log_loss: float
    accuracy: float
    calibration_error: float


@dataclass(frozen=True)
class Tables:
    """The tables of an evaluation on the test part.

    `contributions` is empty when the candidate has none, `thresholds` when there are more than two classes.
    `comparison` holds the rows in which a split strategy compares its model with another one; None when it does not.
    """

    confusion: list[list[int]]
    confusion_weighted: list[list[int]]
    reliability_before: Reliability
    reliability_after: Reliability
    segments: dict[str, list[SegmentLoss]]
    importance: dict[str, float]
    contributions: list[Contribution] = field(default_factory=list)
    thresholds: list[Threshold] = field(default_factory=list)
    comparison: list[ComparedWay] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return a form that JSON can hold, without the tables that do not exist."""
        values = asdict(self)
        for name in ("contributions", "thresholds"):
            if not values[name]:
                del values[name]
        if self.comparison is None:
            del values["comparison"]
        return values


def evaluate(
    model: Model, parts: Mapping[str, Examples], segments: tuple[str, ...], seed: int, positive: int | None = None
) -> tuple[dict[str, float], Tables]:
    """Metrics and tables of a model: the log loss of all parts, all metrics of the test part.

    `positive` is the index of the positive one of two classes.
    """
    metrics: dict[str, float] = {}
    shares = np.asarray(model.info.class_shares or class_shares(parts["train"].y, len(model.classes)))
    for name, part in parts.items():
        p = model.probabilities(part.table)
        if not np.isfinite(p).all():
            raise DataError(f"train: the model returns non-finite probabilities on the {name} part")
        metrics[f"{name}_log_loss"] = float(row_losses(p, part.y).mean())
        metrics[f"{name}_prior_log_loss"] = float(prior_losses(shares, part.y).mean())
    of_test, tables = _evaluate_test(model, parts["test"], shares, segments, seed, positive)
    return metrics | of_test, tables


def _evaluate_test(
    model: Model, test: Examples, shares: np.ndarray, segments: tuple[str, ...], seed: int, positive: int | None
) -> tuple[dict[str, float], Tables]:
    prediction = model.predict(test.table)
    p, predicted = prediction.probabilities, prediction.predicted
    losses, prior = row_losses(p, test.y), prior_losses(shares, test.y)
    metrics = {f"test_{k}": v for k, v in classification(p, test.y, model.classes).items()}
    metrics["test_weighted_macro_f1"] = decision.macro_f1(test.y, predicted, len(model.classes))
    metrics["test_weighted_accuracy"] = float((predicted == test.y).mean())
    low, high = bootstrap_interval(Clusters.of(losses, test.entities), seed)
    gain_low, gain_high = bootstrap_interval(Clusters.of(prior - losses, test.entities), seed)
    raw = model.raw_probabilities(test.table)
    ece_low, ece_high = calibrating.calibration_error_interval(p, test.y, test.entities, seed=seed)
    metrics |= {
        "test_log_loss_low": low,
        "test_log_loss_high": high,
        "test_gain_over_prior": float((prior - losses).mean()),
        "test_gain_over_prior_low": gain_low,
        "test_gain_over_prior_high": gain_high,
        "test_ece": calibrating.expected_calibration_error(p, test.y),
        "test_ece_low": ece_low,
        "test_ece_high": ece_high,
        "test_ece_before_calibration": calibrating.expected_calibration_error(raw, test.y),
    }
    if model.costs:
        metrics |= _cost_metrics(model, test, shares, prediction, seed)
    thresholds = []
    if positive is not None:
        score, is_positive = p[:, positive], test.y == positive
        scores = binary_scores(score, is_positive, test.entities, seed)
        metrics |= {f"test_{name}": value for name, value in scores.items()}
        thresholds = threshold_table(score, is_positive, _error_costs(model, positive))
    tables = Tables(
        confusion=confusion(p, test.y, model.classes),
        confusion_weighted=_confusion_of(predicted, test.y, len(model.classes)),
        reliability_before=calibrating.reliability(raw, test.y),
        reliability_after=calibrating.reliability(p, test.y),
        segments={name: _segment(test.table.column(name), losses, prior) for name in segments},
        importance=permutation_importance(model, test, seed),
        contributions=mean_contributions(model, test.table, seed),
        thresholds=thresholds,
    )
    return metrics, tables


def _cost_metrics(
    model: Model, test: Examples, shares: np.ndarray, prediction: Prediction, seed: int
) -> dict[str, float]:
    """Mean cost of a test row, with its 95 % interval, beside that of the most probable class and of one class for all.

    The one class is the cheapest by the class shares of training.
    """
    costs = decision.row_costs(test.y, prediction.predicted, model.costs)
    low, high = bootstrap_interval(Clusters.of(costs, test.entities), seed)
    most_probable = decision.row_costs(test.y, decision.decide(prediction.probabilities), model.costs)
    cheapest = decision.decide(shares[None, :], costs=model.costs)
    return {
        "test_mean_cost": float(costs.mean()),
        "test_mean_cost_low": low,
        "test_mean_cost_high": high,
        "test_mean_cost_most_probable": float(most_probable.mean()),
        "test_mean_cost_one_class": float(decision.row_costs(test.y, cheapest, model.costs).mean()),
    }


def _error_costs(model: Model, positive: int) -> tuple[float, float] | None:
    """Costs of a false positive and a false negative."""
    if not model.costs:
        return None
    return model.costs[1 - positive][positive], model.costs[positive][1 - positive]


def _confusion_of(predicted: np.ndarray, y: np.ndarray, classes: int) -> list[list[int]]:
    counts: list[list[int]] = (
        np.bincount(y * classes + predicted, minlength=classes * classes).reshape(classes, classes).tolist()
    )
    return counts


def _segment(column: pa.ChunkedArray, losses: np.ndarray, prior: np.ndarray) -> list[SegmentLoss]:
    values = np.asarray(["unknown" if v is None else str(v) for v in column.to_pylist()])
    rows = []
    for value in np.unique(values):
        chosen = values == value
        rows.append(
            SegmentLoss(
                value=str(value),
                rows=int(chosen.sum()),
                log_loss=float(losses[chosen].mean()),
                prior_log_loss=float(prior[chosen].mean()),
            )
        )
    return rows
