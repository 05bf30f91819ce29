"""Drift is found when it is there and not when it is not, by the step's own rules over nights drawn at random."""

from __future__ import annotations

import pyarrow as pa
import pytest
from healthy_nights import Nights, population

from apex_ml.contract.model import Contract


@pytest.fixture(scope="module")
def orders() -> pa.Table:
    return population(orders=100_000)


def test_healthy_nights_raise_no_alarm(contract: Contract, orders: pa.Table) -> None:
    """Growing history, a weekday a night, holidays. At 0.2 % a night, more than 3 alarms come once in 2,000 times."""
    alarms = [found for seed in range(4) for found in Nights(contract, seed, orders).healthy(40) if found]
    assert len(alarms) <= 3, alarms


@pytest.mark.parametrize("place", range(6))
def test_a_tenth_more_of_the_largest_level_is_found_in_two_drops(
    contract: Contract, orders: pa.Table, place: int
) -> None:
    name = contract.features.attributes[place]
    assert sum(Nights(contract, seed, orders).finds((name, 1.1)) for seed in range(3)) >= 2


def test_a_jump_of_history_is_drift(contract: Contract, orders: pa.Table) -> None:
    nights = Nights(contract, 1, orders)
    for _ in nights.healthy(8):
        pass
    assert "history_orders" in nights.judge(nights.score(200))
