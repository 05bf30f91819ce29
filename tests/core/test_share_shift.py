"""Class shares of the newest rows that the model does not expect: large or not, lasting or not, and the calibration."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from apex_ml.core import calibration
from apex_ml.core.evaluation import row_losses
from apex_ml.core.examples import Examples
from apex_ml.core.share_shift import do_shares_last, is_shifted, share_ratio

ROWS_A_DAY, SEASON, YEARS = 40, 90, 3


def odds(share: float) -> float:
    return float(np.log(share / (1 - share)))


def predicted(n: int, share: float, actual: float, seed: int, sharpness: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of a model that expects a share of the second class, and classes that have another one."""
    random = np.random.default_rng(seed)
    signal = random.normal(0, 1.5, n)
    y = (random.random(n) < 1 / (1 + np.exp(-signal - odds(actual)))).astype(int)
    p = 1 / (1 + np.exp(-(signal + odds(share)) * sharpness))
    return np.column_stack([1 - p, p]), y


def parts(shares: list[float]) -> tuple[Examples, Examples]:
    """Periods with these shares of the second class; the last one is the newest part."""
    random = np.random.default_rng(4)
    days = np.repeat(np.arange(len(shares) * SEASON), ROWS_A_DAY)
    y = (random.random(len(days)) < np.repeat(shares, SEASON * ROWS_A_DAY)).astype(int)
    newest = days >= (len(shares) - 1) * SEASON
    table = pa.table({})
    return tuple(Examples(table, y[rows], days[rows], days[rows]) for rows in (~newest, newest))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("shares", "lasting"),
    [
        ([0.2, 0.4, 0.3, 0.1] * YEARS, False),
        ([0.2, 0.21, 0.2, 0.4, 0.41, 0.6, 0.6, 0.61], True),
        ([0.2, 0.4], None),
        ([0.3, 0.1, 0.4, 0.4, 0.2, 0.4, 0.1, 0.27], None),
    ],
    ids=["seasons", "changes for good", "too few periods", "no shift"],
)
def test_earlier_periods_say_whether_shares_last(shares: list[float], lasting: bool | None) -> None:
    train, newest = parts(shares)
    assert do_shares_last(train, newest, 2) is lasting


def test_without_days_nobody_knows_whether_shares_last() -> None:
    part = Examples(pa.table({}), np.arange(100) % 2, np.arange(100))
    assert do_shares_last(part, part, 2) is None


@pytest.mark.parametrize(("actual", "n", "shifted"), [(0.3, 4000, False), (0.5, 4000, True), (0.5, 12, False)])
def test_a_shift_is_large_and_more_than_chance(actual: float, n: int, shifted: bool) -> None:
    assert is_shifted(*predicted(n, 0.3, actual, 1)) is shifted


def test_the_ratio_gives_the_shares_of_the_classes() -> None:
    p, y = predicted(2000, 0.2, 0.6, 2)
    scaled = p * share_ratio(p, y)
    assert (scaled / scaled.sum(axis=1, keepdims=True)).mean(axis=0) == pytest.approx([1 - y.mean(), y.mean()])


@pytest.mark.parametrize("sharpness", [1.0, 2.0])
def test_lasting_shares_are_learned_and_passing_ones_are_not(sharpness: float) -> None:
    p, y = predicted(4000, 0.3, 0.6, 3, sharpness)
    chosen = {lasting: calibration.choose(p, y, seed=1, shares_last=lasting)[0] for lasting in (True, False, None)}

    def excess(later: float, lasting: bool | None) -> float:
        """Nats above the probabilities that drew the later classes."""
        q, z = predicted(20_000, 0.3, later, 5, sharpness)
        perfect, _ = predicted(20_000, later, later, 5)
        return float((row_losses(chosen[lasting].apply(q), z) - row_losses(perfect, z)).mean())

    assert excess(0.6, True) < 0.01 and excess(0.3, True) > 0.1
    assert excess(0.3, False) < 0.03 and excess(0.6, False) > 0.1
    # where nobody knows, they are left to the method, which learns them
    assert excess(0.3, None) > excess(0.3, False) + 0.03


def test_shares_as_expected_change_no_bit_of_the_calibration() -> None:
    p, y = predicted(4000, 0.3, 0.32, 6, 1.2)
    usual = calibration.choose(p, y, seed=1)
    assert not is_shifted(p, y)
    assert all(calibration.choose(p, y, seed=1, shares_last=lasting) == usual for lasting in (True, False))


def test_the_prior_of_weighted_training_stays_in_the_calibration() -> None:
    p, y = predicted(4000, 0.5, 0.6, 7)
    ratio = (0.7, 0.3)
    passing, _ = calibration.choose(p, y, seed=1, prior_ratio=ratio, shares_last=False)
    lasting, _ = calibration.choose(p, y, seed=1, prior_ratio=ratio, shares_last=True)
    assert passing.prior_ratio == ratio
    assert lasting.apply(p).mean(axis=0) == pytest.approx([1 - y.mean(), y.mean()], abs=0.01)
