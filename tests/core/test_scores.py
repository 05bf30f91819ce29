"""Scores of probabilities, against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, log_loss, precision_score, recall_score

from apex_ml.core.evaluation import against_optimum, class_shares, classification, confusion, prior_losses, row_losses

CLASSES = ("a", "b", "c")


def random_case(seed: int, n: int = 400) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.dirichlet([1.0, 1.0, 1.0], n), random.integers(0, 3, n)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_log_loss_equals_scikit_learn(seed: int, kind: type) -> None:
    p, y = random_case(seed)
    assert row_losses(p.astype(kind), y).mean() == pytest.approx(log_loss(y, p, labels=[0, 1, 2]), rel=1e-5)


@pytest.mark.parametrize(
    ("chosen", "loss"), [(1.0, 0.0), (0.5, np.log(2)), (0.0, -np.log(1e-15)), (1e-3, np.log(1000))]
)
def test_losses_of_single_orders(chosen: float, loss: float) -> None:
    p = np.array([[chosen, 1 - chosen, 0.0]])
    assert row_losses(p, np.array([0])) == pytest.approx([loss])


@pytest.mark.parametrize("seed", range(3))
def test_classification_equals_scikit_learn(seed: int) -> None:
    p, y = random_case(seed)
    best = p.argmax(axis=1)
    metrics = classification(p, y, CLASSES)
    assert metrics["accuracy"] == pytest.approx(accuracy_score(y, best))
    assert metrics["macro_f1"] == pytest.approx(f1_score(y, best, average="macro"))
    assert [metrics[f"precision_{c}"] for c in CLASSES] == pytest.approx(precision_score(y, best, average=None))
    assert [metrics[f"recall_{c}"] for c in CLASSES] == pytest.approx(recall_score(y, best, average=None))
    assert [metrics[f"support_{c}"] for c in CLASSES] == [(y == k).sum() for k in range(3)]
    assert confusion(p, y, CLASSES) == confusion_matrix(y, best).tolist()


def test_classes_that_never_occur_count_as_zero() -> None:
    p = np.array([[0.9, 0.1, 0.0], [0.8, 0.2, 0.0]])
    metrics = classification(p, np.array([0, 0]), CLASSES)
    assert metrics["precision_c"] == metrics["recall_c"] == metrics["support_c"] == 0
    assert confusion(p, np.array([0, 0]), CLASSES) == [[2, 0, 0], [0, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize(
    ("y", "shares"), [([0, 0, 1, 2], [0.5, 0.25, 0.25]), ([0, 0], [0.8 / 1.2, 0.2 / 1.2, 0.2 / 1.2]), ([], [1 / 3] * 3)]
)
def test_class_shares_are_positive(y: list[int], shares: list[float]) -> None:
    result = class_shares(np.array(y, np.int64), 3)
    assert result == pytest.approx(shares) and result.sum() == pytest.approx(1)


def test_prior_loss_is_the_entropy_of_the_shares() -> None:
    y = np.repeat([0, 1, 2], [50, 30, 20])
    shares = class_shares(y, 3)
    assert prior_losses(shares, y).mean() == pytest.approx(-(shares * np.log(shares)).sum())


def test_against_optimum_equals_a_manual_calculation() -> None:
    """Two orders with odds 3 : 1, one of them not in the truth, and a model that says 1 : 1."""
    p, y = np.full((3, 2), 0.5), np.array([0, 1, 0])
    optimum = np.array([[0.75, 0.25], [0.75, 0.25], [np.nan, np.nan]])
    comparison = against_optimum(p, y, optimum, optimum, np.arange(3), seed=1)
    best = -(np.log(0.75) + np.log(0.25)) / 2
    assert comparison["optimum_rows"] == 2
    assert comparison["optimum_log_loss"] == comparison["truth_log_loss"] == pytest.approx(best)
    assert comparison["excess_percent"] == pytest.approx(100 * (np.log(2) / best - 1))
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert comparison["expected_excess_percent"] == pytest.approx(100 * (np.log(2) / entropy - 1))
    assert against_optimum(p[2:], y[2:], optimum[2:], optimum[2:], y[2:], seed=1) == {"optimum_rows": 0.0}
    same = against_optimum(optimum[:2], y[:2], optimum[:2], optimum[:2], y[:2], seed=1)
    assert same["excess_percent"] == same["excess_percent_low"] == same["expected_excess_percent"] == 0
