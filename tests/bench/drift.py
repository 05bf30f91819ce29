"""False alarms over healthy nights, and how often a drift is found, by the rules of the step monitor."""

from __future__ import annotations

from collections.abc import Iterator

from statsmodels.stats.proportion import proportion_confint

from apex_ml.contract.model import load_contract
from apex_ml.settings import Settings
from tests.bench.registry import Beside, Row, measurement
from tests.bench.scene import Scene
from tests.healthy_nights import Nights, population

MODELS, NIGHTS, SEEDS = 50, 40, 200


@measurement
def drift(scene: Scene) -> Iterator[Row]:
    """2,000 healthy nights; then a tenth more of an attribute's largest level, 200 times an attribute."""
    contract = load_contract(Settings.load().contract)
    orders = population()
    alarms = sum(bool(found) for seed in range(MODELS) for found in Nights(contract, seed, orders).healthy(NIGHTS))
    nights = MODELS * NIGHTS
    upper = proportion_confint(alarms, nights, alpha=0.1, method="beta")[1]
    note = f"Clopper-Pearson, one-sided; {alarms} alarms in {nights:,} nights"
    yield Row("drift: false alarms a night, upper 95 % bound", 100 * upper, "%", 1.0, None, note)
    for name in contract.features.attributes:
        missed = sum(not Nights(contract, 1000 + seed, orders).finds((name, 1.1)) for seed in range(SEEDS))
        beside = Beside("seeds", SEEDS)
        yield Row(f"drift: {name}, missed within two drops", 100 * missed / SEEDS, "%", 5.0, beside)
