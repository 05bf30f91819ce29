"""AUC, average precision and thresholds of two classes."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, precision_score, recall_score, roc_auc_score

from apex_ml.core.binary import THRESHOLDS, auc, binary_scores, threshold_table


def drawn(n: int, seed: int, levels: int = 1000) -> tuple[np.ndarray, np.ndarray]:
    """Scores with ties, and classes that they predict."""
    random = np.random.default_rng(seed)
    score = random.integers(1, levels, n) / levels
    return score.astype(np.float32), random.random(n) < score


@pytest.mark.parametrize("levels", [3, 20, 1000])
def test_area_and_average_precision_are_those_of_scikit_learn(levels: int) -> None:
    score, is_positive = drawn(700, 1, levels)
    scores = binary_scores(score, is_positive, np.arange(700), seed=1)
    assert scores["auc"] == pytest.approx(roc_auc_score(is_positive, score), abs=1e-12)
    assert scores["average_precision"] == pytest.approx(average_precision_score(is_positive, score), abs=1e-12)
    assert scores["positive_share"] == is_positive.mean()
    assert auc(1 - score, ~is_positive) == pytest.approx(scores["auc"], abs=1e-6)


def test_the_interval_is_as_wide_as_that_of_resampled_rows() -> None:
    score, is_positive = drawn(400, 2)
    random = np.random.default_rng(3)
    resampled = []
    for _ in range(600):
        rows = random.integers(0, 400, 400)
        resampled.append(roc_auc_score(is_positive[rows], score[rows]))
    low, high = np.quantile(resampled, [0.025, 0.975])
    scores = binary_scores(score, is_positive, np.arange(400), seed=4)
    assert scores["auc_high"] - scores["auc_low"] == pytest.approx(high - low, rel=0.15)
    assert scores["auc_low"] < scores["auc"] < scores["auc_high"]


def test_rows_of_one_entity_widen_the_interval() -> None:
    score, is_positive = drawn(300, 5)
    whole = np.repeat(np.arange(300), 10)
    alike = binary_scores(score[whole], is_positive[whole], whole, seed=1)
    apart = binary_scores(score[whole], is_positive[whole], np.arange(3000), seed=1)
    assert alike["auc_high"] - alike["auc_low"] > 2.5 * (apart["auc_high"] - apart["auc_low"])


@pytest.mark.parametrize("value", [True, False])
def test_rows_of_one_class_have_no_area(value: bool) -> None:
    score, everywhere = np.array([0.2, 0.7]), np.array([value, value])
    assert binary_scores(score, everywhere, np.arange(2), seed=1) == {}
    assert auc(score, everywhere) is None
    assert len(threshold_table(score, everywhere)) == len(THRESHOLDS)


def test_thresholds_are_those_of_scikit_learn_and_the_cheapest_follows_from_the_costs() -> None:
    score, is_positive = drawn(20_000, 6)
    table = threshold_table(score, is_positive, (1.0, 4.0))
    for row in table[9::20]:
        predicted = score >= row.threshold
        assert row.rows == predicted.sum()
        assert row.precision == pytest.approx(precision_score(is_positive, predicted))
        assert row.recall == pytest.approx(recall_score(is_positive, predicted))
        assert row.f1 == pytest.approx(f1_score(is_positive, predicted))
        assert row.accuracy == pytest.approx((predicted == is_positive).mean())
        assert row.false_positive_rate == pytest.approx(predicted[~is_positive].mean())
        errors = (predicted & ~is_positive).sum() + 4 * (~predicted & is_positive).sum()
        assert row.cost == pytest.approx(errors / len(score))
    # a false alarm costs a quarter of a miss: predict positive from 1 / (1 + 4) on
    assert min(table, key=lambda row: row.cost or 0).threshold == pytest.approx(0.2, abs=0.05)
    assert threshold_table(score, is_positive)[0].cost is None
    never = threshold_table(np.zeros(3), np.array([True, False, True]))[0]
    assert (never.rows, never.precision, never.recall, never.f1) == (0, None, 0, 0)
