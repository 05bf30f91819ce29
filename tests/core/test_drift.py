"""The stability index of features."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from apex_ml.core.drift import drift, population_stability_index
from apex_ml.core.features import FeatureColumn

COLUMNS = (FeatureColumn("level", "categorical"), FeatureColumn("number", "numeric"))


def sample(seed: int, n: int = 20_000, shift: float = 0.0, nulls: float = 0.0, new: float = 0.0) -> pa.Table:
    random = np.random.default_rng(seed)
    level = np.where(random.random(n) < new, "new", random.choice(["a", "b", "c"], n, p=[0.5, 0.3, 0.2]))
    return pa.table(
        {"level": pa.array(level), "number": pa.array(random.normal(shift, 1, n), mask=random.random(n) < nulls)}
    )


@pytest.mark.parametrize(
    ("changed", "name", "low", "high"),
    [
        ({}, "number", 0, 0.005),
        ({}, "level", 0, 0.005),
        ({"shift": 0.5}, "number", 0.2, 0.3),
        ({"nulls": 0.8}, "number", 2, 20),
        ({"nulls": 1.0}, "number", 5, 20),
        ({"new": 0.2}, "level", 1, 5),
    ],
)
def test_the_index_grows_with_the_change(changed: dict[str, float], name: str, low: float, high: float) -> None:
    assert low <= drift(COLUMNS, sample(1), sample(2, **changed))[name] <= high


def test_the_most_drifted_stands_first() -> None:
    assert next(iter(drift(COLUMNS, sample(1), sample(2, new=0.3)))) == "level"


def test_an_empty_sample_has_no_index() -> None:
    assert np.isnan(population_stability_index(np.zeros(3), np.ones(3)))


def test_a_constant_number_does_not_drift_from_itself() -> None:
    constant = pa.table({"level": ["a"] * 5, "number": [1.0] * 5})
    assert drift(COLUMNS, constant, constant) == {"level": 0.0, "number": 0.0}
