"""False alarms over simulated healthy nights, and how often the rules of the step monitor detect a drift."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from statsmodels.stats.proportion import proportion_confint

from apex_ml.core.degradation import SLIGHTLY_WORSE, WEEKS_A_YEAR, Rule
from apex_ml.pipelines import load_pipeline
from apex_ml.settings import Settings
from benchmarks.registry import Beside, Row, measurement
from benchmarks.scene import Scene
from tests.support.healthy_nights import Nights, population
from tests.support.healthy_years import Year, first_alarm

MODELS, NIGHTS, SEEDS = 50, 40, 200
YEARS = 300


@measurement
def drift(scene: Scene) -> Iterator[Row]:
    """2,000 healthy nights, also after a settled change; and 10 % more of an attribute's largest level, 200 times."""
    contract = load_pipeline(Settings.load()).contract
    rows = population()
    alarms = sum(bool(result) for seed in range(MODELS) for result in Nights(contract, seed, rows).healthy(NIGHTS))
    nights = MODELS * NIGHTS
    upper = proportion_confint(alarms, nights, alpha=0.1, method="beta")[1]
    note = f"Clopper-Pearson, one-sided; {alarms} alarms in {nights:,} nights"
    yield Row("drift: false alarms a night, upper 95 % bound", 100 * upper, "%", 1.0, None, note)
    change = (contract.features.attributes[3], 1.3)
    settled = sum(
        bool(result) for seed in range(MODELS) for result in Nights(contract, seed, rows, change).healthy(NIGHTS)
    )
    upper = proportion_confint(settled, nights, alpha=0.1, method="beta")[1]
    note = f"a change before the training; {settled} alarms in {nights:,} nights"
    yield Row("drift: false alarms a night after a promotion, upper 95 % bound", 100 * upper, "%", 1.0, None, note)
    for name in contract.features.attributes:
        missed = sum(not Nights(contract, 1000 + seed, rows).finds((name, 1.1)) for seed in range(SEEDS))
        beside = Beside("seeds", SEEDS)
        yield Row(f"drift: {name}, missed within two drops", 100 * missed / SEEDS, "%", 5.0, beside)


@measurement
def healthy_years(scene: Scene) -> Iterator[Row]:
    """300 healthy years of weekly quality: false alarms of both rules; and the time to detect a small change."""
    rule = Rule()
    worse = slightly = alarms = 0
    for seed in range(YEARS):
        weeks, result = Year(seed, orders_a_week=3_000).live(rule)
        worse += sum(week.worse for week in weeks)
        slightly += sum(week.verdict == SLIGHTLY_WORSE for week in weeks)
        alarms += first_alarm(result) is not None
    weeks_lived = YEARS * WEEKS_A_YEAR
    for name, count, number, target in (
        ("weeks called worse", worse, weeks_lived, 1.0),
        ("weeks called slightly worse", slightly, weeks_lived, 2.0),
        ("years with an alarm over several weeks", alarms, YEARS, 5.0),
    ):
        upper = proportion_confint(count, number, alpha=0.1, method="beta")[1]
        yield Row(f"quality: {name}, upper 95 % bound", 100 * upper, "%", target, None, f"{count} of {number:,}")
    delays, single = [], 0
    for seed in range(YEARS // 10):
        year = Year(seed, clients=30_000, test_orders=15_000, orders_a_week=5_000)
        weeks, result = year.live(rule, spoiled=0.06, since=10)
        alarm = first_alarm(result)
        delays.append(WEEKS_A_YEAR if alarm is None else alarm - 9)
        single += sum(week.worse for week in weeks[10:])
    share = 100 * single / (len(delays) * (WEEKS_A_YEAR - 10))
    note = f"0.021 nats; by itself a week is called worse in {share:.0f} % of weeks"
    name = "quality: weeks until a small change that stays is found, median"
    yield Row(name, float(np.median(delays)), "weeks", 12.0, None, note)
