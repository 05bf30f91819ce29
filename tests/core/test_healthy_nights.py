"""The step's own rules detect drift, and raise no false alarm, over randomly drawn nights."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import pytest

from apex_ml.contract.model import Contract
from tests.support.healthy_nights import Nights, population


@pytest.fixture(scope="module")
def orders() -> pa.Table:
    return population(orders=100_000)


def test_healthy_nights_raise_no_alarm(contract: Contract, orders: pa.Table) -> None:
    """Growing history, weekdays, holidays. At 0.2 % per night, more than 3 alarms occur once in 2,000 times."""
    alarms = [result for seed in range(4) for result in Nights(contract, seed, orders).healthy(40) if result]
    assert len(alarms) <= 3, alarms


def test_a_change_before_the_training_is_no_drift(contract: Contract, orders: pa.Table) -> None:
    name = contract.features.attributes[3]
    nights = Nights(contract, 5, orders, settled=(name, 1.3))
    result = list(nights.healthy(12))
    assert sum(map(bool, result)) <= 1
    assert not nights.unknown_jumps(nights.score(13))
    nights.model = replace(nights.model, recent=None)
    assert name in nights.drifted(nights.score(14))  # against the training examples alone it would always be


@pytest.mark.parametrize("place", range(6))
def test_ten_percent_more_of_the_largest_level_is_detected_in_two_drops(
    contract: Contract, orders: pa.Table, place: int
) -> None:
    name = contract.features.attributes[place]
    assert sum(Nights(contract, seed, orders).finds((name, 1.1)) for seed in range(3)) >= 2


def test_a_jump_of_history_is_drift(contract: Contract, orders: pa.Table) -> None:
    nights = Nights(contract, 1, orders)
    for _ in nights.healthy(8):
        pass
    assert "history_orders" in nights.drifted(nights.score(200))
