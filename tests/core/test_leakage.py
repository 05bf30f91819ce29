"""A leaking feature is detected and named; other features never are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from apex_ml.core.leakage import SingleFeature, refuse_leaks, single_feature_gains
from apex_ml.errors import DataError

CLASSES = 3
SHARES = (0.48, 0.19, 0.33)
N = 6_000


def gains_of(make: Any, n: int = N, seed: int = 5) -> SingleFeature:
    """The verdict on a feature made by `make(random, y)`."""
    random = np.random.default_rng(seed)
    parts = []
    for size in (n, n // 3):
        y = random.choice(CLASSES, size, p=SHARES)
        parts.append((make(random, y).astype(np.float32).reshape(-1, 1), y))
    (gains,) = single_feature_gains(["f"], *parts, CLASSES)
    return gains


def _mostly(random: np.random.Generator, y: np.ndarray) -> np.ndarray:
    return np.where(random.random(len(y)) < 0.9, y, random.integers(0, CLASSES, len(y)))


LEAKS = {
    "copy of the target": lambda r, y: y,
    "copy with other codes": lambda r, y: np.array([7, 2, 5])[y],
    "target and a little noise": lambda r, y: y * 10 + r.normal(0, 1, len(y)),
    "right nine times in ten": _mostly,
    "filled for one class, null for another": lambda r, y: np.where(y == 0, np.nan, y + r.random(len(y))),
}
HONEST = {
    "constant": lambda r, y: np.zeros(len(y)),
    "all null": lambda r, y: np.full(len(y), np.nan),
    "noise": lambda r, y: r.normal(0, 1, len(y)),
    "noise of few levels": lambda r, y: r.integers(0, 5, len(y)),
    "an id": lambda r, y: r.integers(0, 100_000, len(y)),
    "an attribute that the channel depends on": lambda r, y: np.where(
        r.random(len(y)) < 0.3, y, r.integers(0, 3, len(y))
    ),
}


@pytest.mark.parametrize("make", LEAKS.values(), ids=LEAKS)
def test_a_leaking_feature_is_refused_by_name(make: Any) -> None:
    gains = gains_of(make)
    assert gains.low > 0.5
    with pytest.raises(DataError, match=r"f \(\d+%\) alone removes at least 50%.*suspicious_gain"):
        refuse_leaks([gains], 0.5)


@pytest.mark.parametrize("make", HONEST.values(), ids=HONEST)
def test_a_feature_without_a_leak_passes(make: Any) -> None:
    gains = gains_of(make)
    assert -0.1 < gains.gain < 0.2
    refuse_leaks([gains], 0.5)


def test_a_chance_result_on_few_orders_is_no_leak() -> None:
    for seed in range(200):
        refuse_leaks([gains_of(lambda r, y: r.integers(0, 3, len(y)), n=12, seed=seed)], 0.5)


def test_the_gain_equals_a_manual_calculation() -> None:
    x, y = np.array([[0.0], [0.0], [1.0], [1.0]]), np.array([0, 0, 1, 1])
    (gains,) = single_feature_gains(["f"], (x, y), (x, y), 2)
    # two orders of the level's own class, ten of the prior's (1/2, 1/2): 7 of 12
    assert gains.gain == pytest.approx(1 - np.log(7 / 12) / np.log(1 / 2))


def test_all_leaks_are_named_best_first() -> None:
    gains = single_feature_gains(["a", "b", "c"], *[(np.column_stack([y, y * 0, y]), y) for y in _two()], CLASSES)
    assert [f.name for f in gains] == ["a", "c", "b"]
    with pytest.raises(DataError, match=r"a \(\d+%\), c \(\d+%\)"):
        refuse_leaks(gains, 0.5)


def _two() -> list[np.ndarray]:
    random = np.random.default_rng(1)
    return [random.choice(CLASSES, n, p=SHARES) for n in (3_000, 1_000)]
