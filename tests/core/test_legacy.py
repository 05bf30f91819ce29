"""The original selection rules, on small tables made for each rule."""

from __future__ import annotations

import numpy as np
import pytest

from apex_ml.contract.feature_column import FeatureColumn
from apex_ml.core.strategies.legacy.rules import LegacyRules, cramers_v, pearson

N = 400
RANDOM = np.random.default_rng(5)
CODES = RANDOM.integers(1, 4, N)
NUMBERS = RANDOM.normal(0, 1, N)


def verdicts_of(**columns: np.ndarray) -> dict[str, str]:
    """Reason by name of the dropped features; names that start with c_ are categorical."""
    kinds = tuple(FeatureColumn(n, "categorical" if n.startswith("c_") else "numeric") for n in columns)
    x = np.column_stack(list(columns.values())).astype(np.float32)
    return {v.name: v.reason for v in LegacyRules().evaluate(kinds, x, ("who",)) if not v.kept and v.name != "who"}


def of_share(share: float) -> np.ndarray:
    return np.where(np.arange(N) < share * N, 1.0, 2.0 + np.arange(N) % 3)


def of_correlation(r: float) -> np.ndarray:
    """Numbers with exactly this correlation with NUMBERS."""
    a = (NUMBERS - NUMBERS.mean()) / NUMBERS.std()
    noise = RANDOM.normal(0, 1, N)
    noise = noise - noise.mean() - a * (noise @ a) / N
    return np.asarray(r * a + np.sqrt(1 - r * r) * noise / noise.std())


@pytest.mark.parametrize(("share", "dropped"), [(0.95, True), (0.94, False), (1.0, True)])
@pytest.mark.parametrize("name", ["c_a", "a"])
def test_near_constants_are_dropped(share: float, dropped: bool, name: str) -> None:
    assert (name in verdicts_of(**{name: of_share(share)})) is dropped


def test_a_feature_that_is_mostly_unknown_is_near_constant() -> None:
    assert "one value has a share of 0.990" in verdicts_of(a=np.where(np.arange(N) < 4, NUMBERS, np.nan))["a"]


@pytest.mark.parametrize(("r", "dropped"), [(0.81, True), (-0.81, True), (0.79, False)])
def test_the_later_of_two_correlated_numbers_is_dropped(r: float, dropped: bool) -> None:
    verdicts = verdicts_of(z=NUMBERS, b=of_correlation(r))
    assert set(verdicts) == ({"z"} if dropped else set())
    if dropped:
        assert verdicts["z"] == f"the correlation with b is {r:+.3f}"


def test_the_later_of_two_associated_categories_is_dropped() -> None:
    verdicts = verdicts_of(c_z=CODES, c_b=CODES % 3, c_free=RANDOM.integers(1, 4, N))
    assert verdicts == {"c_z": "Cramér's V with c_b is 1.000"}
    # b goes for a; c resembles b alone, which is gone, and so it stays
    a = of_correlation(0.85)
    c = np.asarray(2 * NUMBERS * 0.85 - a)
    assert pearson(a, c) < 0.8 < pearson(NUMBERS, a) and pearson(NUMBERS, c) > 0.8
    assert set(verdicts_of(a=a, b=NUMBERS, c=c)) == {"b"}


def test_identifiers_are_dropped_with_and_without_data() -> None:
    columns = (FeatureColumn("who", "categorical"), FeatureColumn("a", "numeric"))
    verdicts = LegacyRules().evaluate(columns, np.column_stack([CODES, NUMBERS]), ("who", "where"))
    assert [(v.name, v.kept) for v in verdicts] == [("who", False), ("a", True), ("where", False)]
    assert {v.reason for v in verdicts if not v.kept} == {"an identifier"}


def test_cramers_v_equals_a_manual_calculation() -> None:
    """2 × 2 counts 30 10 / 10 50: chi² = 100 (30·50 − 10·10)² / (40·60·40·60), V = sqrt(chi² / 100)."""
    a = np.repeat([0, 0, 1, 1], [30, 10, 10, 50])
    b = np.repeat([0, 1, 0, 1], [30, 10, 10, 50])
    assert cramers_v(a, b) == pytest.approx(1400 / 2400)
    assert cramers_v(a, np.zeros(100)) == 0.0


def test_the_correlation_takes_the_rows_that_have_both() -> None:
    a, b = np.array([1.0, 2, 3, np.nan]), np.array([2.0, 4, 6, -100])
    assert pearson(a, b) == pytest.approx(1)
    assert pearson(a, np.ones(4)) == 0.0
