"""The hyper-parameter search."""

from __future__ import annotations

import pytest

from apex_ml.core.estimator import Trained, TrainingSettings
from apex_ml.core.search import search

BASE = TrainingSettings(seed=5)


def bowl(settings: TrainingSettings) -> Trained:
    """Best at depth 3 and learning rate 0.1."""
    loss = 1 + (settings.max_depth - 3) ** 2 * 0.01 + abs(settings.learning_rate - 0.1)
    return Trained(b"", 0, loss, {})


def test_the_same_seed_finds_the_same() -> None:
    assert search(bowl, BASE, 12) == search(bowl, BASE, 12)


@pytest.mark.parametrize("trials", [1, 8])
def test_the_base_is_tried_first_and_nothing_worse_is_chosen(trials: int) -> None:
    best, found = search(bowl, BASE, trials)
    assert len(found) == trials
    assert found[0]["value"] == pytest.approx(bowl(BASE).validation_log_loss)
    assert found[0]["max_depth"] == BASE.max_depth and found[0]["learning_rate"] == BASE.learning_rate
    assert min(found, key=lambda t: t["value"]) == {"value": min(t["value"] for t in found), **best}
    assert set(best) <= set(TrainingSettings.__dataclass_fields__)


def test_trials_stay_within_the_settings_bounds() -> None:
    _, found = search(bowl, BASE, 10)
    assert all(2 <= t["max_depth"] <= 6 and 0.03 <= t["learning_rate"] <= 0.3 and 0 < t["subsample"] <= 1 for t in found)
