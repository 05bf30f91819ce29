"""Calibration maps and decision weights."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from apex_ml.core import calibration, decision
from apex_ml.core.calibration import Calibration
from apex_ml.core.evaluation import row_losses


def drawn(n: int, seed: int, sharpness: float) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities that are `sharpness` times as sure of themselves as they should be, and classes."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 1, (n, 3))
    true = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    y = (random.random((n, 1)) > true.cumsum(axis=1)).sum(axis=1)
    message = np.exp(sharpness * logits)
    return (message / message.sum(axis=1, keepdims=True)).astype(np.float32), y


@pytest.mark.parametrize(("sharpness", "temperature"), [(1.0, 1.0), (2.0, 2.0), (0.5, 0.5)])
def test_temperature_undoes_too_much_and_too_little_confidence(sharpness: float, temperature: float) -> None:
    p, y = drawn(20_000, 1, sharpness)
    assert calibration.fit("temperature", p, y).temperature == pytest.approx(temperature, rel=0.06)


@pytest.mark.parametrize(("sharpness", "methods"), [(1.0, {"none"}), (2.0, {"temperature"})])
def test_the_simplest_sufficient_method_is_chosen(sharpness: float, methods: set[str]) -> None:
    p, y = drawn(8_000, 2, sharpness)
    chosen, losses = calibration.choose(p, y, seed=3)
    assert chosen.method in methods
    assert set(losses) == set(calibration.METHODS)


@pytest.mark.parametrize("method", calibration.METHODS)
def test_calibrated_rows_sum_to_one_and_survive_json(method: calibration.Method) -> None:
    p, y = drawn(2_000, 4, 1.5)
    fitted = calibration.fit(method, p, y, (0.9, 1.2, 1.0))
    q = fitted.apply(p)
    assert q.dtype == np.float32
    assert q.sum(axis=1) == pytest.approx(np.ones(len(q)), abs=1e-5)
    assert (q > 0).all()
    assert Calibration.from_dict(fitted.as_dict()).apply(p).tobytes() == q.tobytes()


def test_no_calibration_changes_no_bit() -> None:
    p, _ = drawn(100, 5, 1.0)
    assert Calibration().apply(p) is p


def test_the_prior_of_weighted_training_is_corrected() -> None:
    """Weights that make every class count the same multiply the odds; the ratio of priors undoes just that."""
    shares = np.array([0.7, 0.2, 0.1])
    p, _ = drawn(1_000, 6, 1.0)
    weighted = p / shares / 3
    weighted /= weighted.sum(axis=1, keepdims=True)
    back = Calibration(prior_ratio=tuple(shares * 3)).apply(weighted)
    assert back == pytest.approx(p, abs=1e-6)


def test_calibration_error_of_a_perfect_and_of_a_wrong_forecast() -> None:
    p, y = drawn(40_000, 7, 1.0)
    assert calibration.expected_calibration_error(p, y) < 0.01
    low, high = calibration.calibration_error_interval(p[:3_000], y[:3_000], np.arange(3_000), seed=1, repeats=50)
    assert 0 <= low < high
    constant = np.tile(np.array([[0.8, 0.1, 0.1]]), (1_000, 1))
    assert calibration.expected_calibration_error(constant, np.zeros(1_000, int), 1) == pytest.approx(0.4 / 3)


def test_a_class_that_validation_lacks_keeps_a_finite_loss() -> None:
    p, y = drawn(500, 8, 1.0)
    y = np.where(y == 2, 1, y)
    chosen, _ = calibration.choose(p, y, seed=1)
    assert np.isfinite(row_losses(chosen.apply(p), np.full(len(p), 2))).all()


def test_few_rows_that_are_divided_without_an_error_do_not_make_probabilities_of_zero_and_one() -> None:
    def chosen(rows: int, right: float) -> tuple[calibration.Calibration, set[str]]:
        y = np.arange(rows) % 2
        p = np.where((y == 1) == (np.arange(rows) % 6 > 0), right, 1 - right)  # of the first class a third is wrong
        p = p if right > 0.9 else np.where(y == 1, right, 1 - right)
        best, losses = calibration.choose(np.column_stack([1 - p, p]), y, seed=1)
        return best, set(losses)

    assert chosen(12, 0.8) == (calibration.Calibration(), {"none", "temperature"})
    assert chosen(120, 0.8)[0].temperature < 1 and chosen(120, 0.8)[1] == {"none", "temperature"}
    # too much confidence is seen in few rows, too
    assert chosen(48, 0.999)[0].temperature > 2


def test_weights_make_the_rare_class_predictable() -> None:
    random = np.random.default_rng(9)
    rare = random.random(6_000) < 0.3
    p = np.where(rare[:, None], [[0.5, 0.4, 0.1]], [[0.75, 0.05, 0.2]]).astype(np.float32)
    y = (random.random((len(p), 1)) > p.astype(float).cumsum(axis=1)).sum(axis=1).clip(0, 2)
    weights = decision.tune(p, y)
    plain = decision.macro_f1(y, decision.decide(p, (1.0, 1.0, 1.0)), 3)
    assert weights[0] == 1.0
    assert decision.macro_f1(y, decision.decide(p, weights), 3) > plain + 0.1
    assert 1 in decision.decide(p, weights)


def test_weights_that_gain_nothing_are_equal() -> None:
    p = np.tile(np.array([[0.5, 0.3, 0.2]], np.float32), (300, 1))
    assert decision.tune(p, np.zeros(300, int)) == (1.0, 1.0, 1.0)
    assert decision.tune(p[:0], np.zeros(0, int)) == (1.0, 1.0, 1.0)


def test_equal_products_predict_the_first_class() -> None:
    assert decision.decide(np.array([[0.4, 0.4, 0.2]]), (1.0, 1.0, 2.0)).tolist() == [0]


def test_the_class_with_the_lowest_expected_cost_is_predicted() -> None:
    random = np.random.default_rng(10)
    p = random.dirichlet([1, 2, 3], 500).astype(np.float32)
    costs = ((0.0, 5.0, 1.0), (1.0, 0.0, 20.0), (2.0, 0.5, 0.0))
    predicted = decision.decide(p, costs=costs)
    for row, chosen in zip(p, predicted, strict=True):
        expected = [sum(float(row[actual]) * costs[actual][k] for actual in range(3)) for k in range(3)]
        assert expected[chosen] == pytest.approx(min(expected), abs=1e-9)
    # the drawn classes cost least when they are predicted so
    y = (random.random((len(p), 1)) > p.astype(float).cumsum(axis=1)).sum(axis=1).clip(0, 2)
    plain = decision.row_costs(y, decision.decide(p), costs).mean()
    assert decision.row_costs(y, predicted, costs).mean() < 0.8 * plain
    assert set(predicted) == {0, 1, 2} and decision.row_costs(np.array([1]), np.array([2]), costs) == [20.0]


def test_a_row_has_the_same_class_alone_and_among_others() -> None:
    p = np.random.default_rng(11).dirichlet(np.ones(40), 3_000).astype(np.float32)
    costs = tuple(tuple(float(abs(a - b)) for a in range(40)) for b in range(40))
    alone = [decision.decide(p[row : row + 1], costs=costs)[0] for row in range(300)]
    assert decision.decide(p, costs=costs)[:300].tolist() == alone


def test_equal_costs_predict_the_most_probable_class_and_ties_the_first() -> None:
    p = np.random.default_rng(12).dirichlet(np.ones(3), 500)
    assert (decision.decide(p, costs=((0, 1, 1), (1, 0, 1), (1, 1, 0))) == p.argmax(axis=1)).all()
    assert decision.decide(np.array([[0.5, 0.5]]), costs=((0.0, 1.0), (1.0, 0.0))).tolist() == [0]


@pytest.mark.parametrize("orders", [60, 800, 20_000])
def test_chance_exceeds_the_calibration_noise_at_the_stated_rate(orders: int) -> None:
    """True probabilities, so that all of the measured error is chance; less of it with more orders."""
    random = np.random.default_rng(7)
    exceeded = 0
    for seed in range(40):
        p = random.dirichlet([2, 1, 3], orders)
        y = (random.random((orders, 1)) > p.cumsum(axis=1)).sum(axis=1)
        noise = calibration.calibration_noise(p, level=0.1, seed=seed, repeats=60)
        exceeded += calibration.expected_calibration_error(p, y) > noise
    assert binom.ppf(0.001, 40, 0.1) <= exceeded <= binom.ppf(0.999, 40, 0.1)
    assert noise < 1.5 / np.sqrt(orders)
