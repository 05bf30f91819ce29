"""Healthy years raise few false alarms, and a small change that stays is found, by both rules of weekly quality."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from apex_ml.core.degradation import Rule, sustained
from tests.support.healthy_years import Year, first_alarm

RULE = Rule()


def test_healthy_years_raise_few_false_alarms() -> None:
    """20 years of 52 weeks. At 1 % a week and 5 % a year, more than 26 worse weeks or 4 alarms are very unlikely."""
    worse = alarms = 0
    for seed in range(20):
        weeks, result = Year(seed, clients=6_000, orders_a_week=1_500).live(RULE)
        worse += sum(week.worse for week in weeks)
        alarms += first_alarm(result) is not None
    assert worse <= 26 and alarms <= 4, (worse, alarms)


def test_a_small_lasting_change_is_detected_by_the_rule_over_weeks() -> None:
    result = late = worse = 0
    for seed in range(5):
        year = Year(seed, clients=20_000, test_orders=15_000, orders_a_week=5_000, weeks=30)
        weeks, evidence = year.live(RULE, spoiled=0.06, since=5)
        alarm = first_alarm(evidence)
        result += alarm is not None and alarm >= 5
        late += alarm is None or alarm > 20
        worse += sum(week.worse for week in weeks[5:])
    assert (result, late) == (5, 0)
    assert worse < 5 * 25 / 2


def test_the_error_of_the_expectation_is_no_evidence() -> None:
    weeks = [(0.90 + 0.02, 0.002)] * 52  # ten errors of a week above the expected 0.90
    assert not any(s.alarm for s in sustained(weeks, 0.90, 0.015, RULE))
    assert sustained(weeks, 0.90, 0.001, RULE)[-1].alarm


def test_an_excess_within_a_quarter_of_the_margin_is_always_tolerated() -> None:
    weeks = [(0.902, 0.0005)] * 52
    assert not any(s.alarm for s in sustained(weeks, 0.90, 0.0, RULE))
    assert sustained(weeks, 0.90, 0.0, replace(RULE, margin=0.004))[-1].alarm


def test_one_bad_week_however_bad_is_no_alarm_over_several_weeks() -> None:
    result = sustained([(0.90, 0.005)] * 5 + [(2.0, 0.005)] + [(0.90, 0.005)] * 5, 0.90, 0.001, RULE)
    assert not any(s.alarm for s in result)
    assert [s.alarm for s in sustained([(2.0, 0.005)] * 6, 0.90, 0.001, RULE)] == [False] * 4 + [True] * 2


def test_the_alarm_has_its_start_and_size_and_ends_with_good_weeks() -> None:
    weeks = [(0.90, 0.005)] * 10 + [(0.92, 0.005)] * 6 + [(0.89, 0.005)] * 12
    result = sustained(weeks, 0.90, 0.001, RULE)
    alarms = [n for n, s in enumerate(result) if s.alarm]
    assert 11 <= alarms[0] <= 15 and alarms[-1] < 27
    assert result[15].first == 10 and result[15].excess == pytest.approx(0.02)


def test_the_sum_of_the_ratios_keeps_its_bound() -> None:
    """E[sum after n weeks] <= n under the null at its edge: with no tolerance, exactly the expected loss."""
    random = np.random.default_rng(1)
    rule = replace(RULE, margin=0.0)
    share = rule.year_alpha / 2
    sums = []
    for _ in range(400):
        weeks = [(loss, 0.01) for loss in random.normal(0.9, 0.01, 20)]
        sums.append(sustained(weeks, 0.9, 0.0, rule)[-1].evidence / (share / 52))
    assert np.mean(np.minimum(sums, 1000)) <= 20 * 1.3
