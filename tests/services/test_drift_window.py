"""The healthy window of drift: what a run's history and predictions are compared with."""

from __future__ import annotations

from datetime import date, timedelta

import pytest

from apex_ml.adapters.postgres.scoring_profiles import Run
from apex_ml.services.drift_monitoring import healthy_window


def runs_before(number: int, rows: int, every_days: int) -> tuple[Run, list[Run]]:
    """A run and the runs before it, newest first; a run's number is also the count in its first bin."""

    def run(age: int) -> Run:
        profile = {"features": {"a": [age, rows - age]}, "predicted": [rows], "confidence": [rows], "lag_days": 1.0}
        day = date(2024, 8, 20) - timedelta(days=age * every_days)
        return Run(1_000 - age, f"{age}.parquet", day, 1, rows, 0, rows, profile, False)

    return run(0), [run(age) for age in range(1, number + 1)]


@pytest.mark.parametrize(
    ("rows", "every_days", "taken"),
    [
        (10_000, 1, 7),
        (3_000, 1, 7),
        (500, 1, 13),
        (100, 1, 50),
        (6_000, 7, 1),
        (3_000, 7, 2),
        (600, 7, 9),
        (50_000, 0, 7),
    ],
    ids=lambda value: str(value),
)
def test_the_window_has_enough_runs_and_orders_and_is_short(rows: int, every_days: int, taken: int) -> None:
    run, before = runs_before(60, rows, every_days)
    window = healthy_window(run, before)
    assert window is not None and window.rows == taken * rows
    assert window.features["a"][0] == sum(range(1, taken + 1))


def test_a_window_without_healthy_runs() -> None:
    run, _ = runs_before(0, 10, 1)
    assert healthy_window(run, []) is None
