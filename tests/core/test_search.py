"""The hyper-parameter search."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apex_ml.contract.feature_column import FeatureColumn
from apex_ml.core.candidates import candidate
from apex_ml.core.candidates.interface import FitContext, Fitted, Part
from apex_ml.core.search import Budget, search

CONTEXT = FitContext(("a", "b"), (FeatureColumn("amount", "numeric"),), seed=5, early_stopping_rounds=5)
LOGISTIC = candidate("logistic")


def part(seed: int, n: int = 300) -> Part:
    random = np.random.default_rng(seed)
    x = random.normal(0, 1, (n, 1)).astype(np.float32)
    return Part(x, (x[:, 0] + random.normal(0, 1, n) > 0).astype(int))


FOLDS = [(part(1), part(2))]


def test_the_same_seed_gives_the_same_result() -> None:
    first, second = (search(LOGISTIC, FOLDS, CONTEXT, Budget(6)) for _ in range(2))
    assert first[0] == second[0]
    assert [(t.value, t.params) for t in first[1]] == [(t.value, t.params) for t in second[1]]


@pytest.mark.parametrize("trials", [1, 6])
def test_the_defaults_are_tried_first_and_the_best_is_chosen(trials: int) -> None:
    best, result = search(LOGISTIC, FOLDS, CONTEXT, Budget(trials))
    assert len(result) == trials
    assert result[0].params == LOGISTIC.defaults(CONTEXT)
    finished = [t for t in result if t.value is not None]
    assert dict(min(finished, key=lambda t: t.value or 0).params) == best


def test_an_interrupted_search_continues(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'search.db'}"
    reported: list[int] = []
    search(LOGISTIC, FOLDS, CONTEXT, Budget(2), storage=storage, on_trial=lambda t: reported.append(t.number))
    _, trials = search(
        LOGISTIC, FOLDS, CONTEXT, Budget(5), storage=storage, on_trial=lambda t: reported.append(t.number)
    )
    assert len(trials) == 5
    assert reported == [0, 1, 2, 3, 4]


def test_a_poor_trial_is_pruned() -> None:
    class Worsening(type(LOGISTIC)):  # type: ignore[misc]
        """Every later trial reports a larger loss than all before."""

        fitted = 0

        def fit(self, params: Mapping[str, Any], train: Part, validation: Part, context: FitContext) -> Fitted:
            Worsening.fitted += 1
            for step in range(40):
                if context.report is not None:
                    context.report(step, 1.0 + 0.1 * Worsening.fitted)
            fitted: Fitted = super().fit(params, train, validation, context)
            return fitted

    _, trials = search(Worsening(), FOLDS, CONTEXT, Budget(7))
    assert len(trials) == 7
    assert [t.number for t in trials if t.value is None]


def test_several_folds_are_averaged() -> None:
    _, one = search(LOGISTIC, FOLDS, CONTEXT, Budget(1))
    _, other = search(LOGISTIC, [(part(3), part(4))], CONTEXT, Budget(1))
    _, both = search(LOGISTIC, [*FOLDS, (part(3), part(4))], CONTEXT, Budget(1))
    values = [t[0].value for t in (one, other, both)]
    assert values[2] == pytest.approx((values[0] + values[1]) / 2)  # type: ignore[operator]
