"""The verdict on a week: significance against the expectation and against the class prior."""

from __future__ import annotations

import json

import numpy as np
import pytest

from apex_ml.core.degradation import Expectation, Rule, degraded, week_quality

CLASSES = ("a", "b", "c")
P = np.array([[0.7, 0.2, 0.1], [0.2, 0.6, 0.2], [0.1, 0.2, 0.7]])
ENTROPY = float(-(P * np.log(P)).sum(axis=1).mean())


def week(seed: int, n: int, spoiled: float = 0.0) -> tuple[np.ndarray, ...]:
    """Probabilities, classes drawn from them except a spoiled share drawn evenly, predicted classes, clients."""
    random = np.random.default_rng(seed)
    p = P[random.integers(0, 3, n)]
    y = (random.random((n, 1)) > p.cumsum(axis=1)[:, :-1]).sum(axis=1)
    y = np.where(random.random(n) < spoiled, random.integers(0, 3, n), y)
    return p, y, p.argmax(axis=1), np.arange(n)


EXPECTED = Expectation(rows=30_000, log_loss=ENTROPY, sd=0.6)


@pytest.mark.parametrize(
    ("n", "spoiled", "expected", "worse", "note"),
    [
        (2000, 0.0, EXPECTED, False, ""),
        (2000, 0.5, EXPECTED, True, "at promotion"),
        (100, 0.5, EXPECTED, False, "not evaluated: 100 known outcomes, fewer than 500"),
        (2000, 0.5, None, False, ""),  # still better than the prior, and there is no expectation
        (2000, 1.0, None, True, "behind the week's class prior"),
    ],
)
def test_a_week_is_worse_only_if_significant_and_beyond_the_margin(
    n: int, spoiled: float, expected: Expectation | None, worse: bool, note: str
) -> None:
    quality = week_quality(*week(1, n, spoiled), CLASSES, expected, Rule())
    assert quality.worse is worse and note in quality.note and bool(note) == bool(quality.note)
    assert quality.log_loss_low < quality.log_loss < quality.log_loss_high
    assert quality.accuracy_low < quality.accuracy < quality.accuracy_high
    assert sum(c.rows for c in quality.classes.values()) == quality.outcomes == n


def test_healthy_weeks_are_rarely_worse() -> None:
    """At an error of 1 %, without margin, with the exact expected loss; 600 weeks give at most 2.3 %, 99.9 %."""
    rule = Rule(margin=0.0, alpha=0.01)
    called = sum(week_quality(*week(seed, 1000), CLASSES, EXPECTED, rule).worse for seed in range(600))
    assert called <= 14


def test_a_week_of_one_client_is_not_evaluated() -> None:
    p, y, predicted, _ = week(1, 2000, 0.5)
    quality = week_quality(p, y, predicted, np.zeros(2000), CLASSES, EXPECTED, Rule())
    assert quality.verdict == "not evaluated" and "one entity" in quality.note and not quality.worse
    assert quality.log_loss_error is quality.log_loss_low is quality.compared_low is None


def test_an_expectation_survives_json_and_earlier_models_have_no_error() -> None:
    expected = Expectation.of(np.array([0.1, 0.5, 0.9]), np.array(["a", "a", "b"]))
    assert Expectation.from_dict(json.loads(json.dumps(expected.as_dict()))) == expected
    assert EXPECTED.standard_error == pytest.approx(0.6 / np.sqrt(30_000))
    assert Expectation.of(np.array([0.1, 0.5]), np.array(["a", "a"])).error is None


def test_a_few_good_weeks_end_the_alarm() -> None:
    assert degraded([True, True], weeks=2, of=3)
    assert not degraded([True], weeks=2, of=3) and not degraded([], weeks=1, of=3)
    assert not degraded([True, True, False, False], weeks=2, of=3)


def test_the_expectation_of_a_model_of_the_first_edition_is_read() -> None:
    known = EXPECTED.as_dict()
    assert Expectation.from_dict({"orders": known.pop("rows"), **known}) == EXPECTED
