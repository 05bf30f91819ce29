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


def test_the_same_seed_finds_the_same() -> None:
    once, again = (search(LOGISTIC, FOLDS, CONTEXT, Budget(6)) for _ in range(2))
    assert once[0] == again[0]
    assert [(t.value, t.params) for t in once[1]] == [(t.value, t.params) for t in again[1]]


@pytest.mark.parametrize("trials", [1, 6])
def test_the_defaults_are_tried_first_and_the_best_is_chosen(trials: int) -> None:
    best, found = search(LOGISTIC, FOLDS, CONTEXT, Budget(trials))
    assert len(found) == trials
    assert found[0].params == LOGISTIC.defaults(CONTEXT)
    finished = [t for t in found if t.value is not None]
    assert dict(min(finished, key=lambda t: t.value or 0).params) == best


def test_an_interrupted_search_goes_on(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'search.db'}"
    told: list[int] = []
    search(LOGISTIC, FOLDS, CONTEXT, Budget(2), storage=storage, told=lambda t: told.append(t.number))
    _, found = search(LOGISTIC, FOLDS, CONTEXT, Budget(5), storage=storage, told=lambda t: told.append(t.number))
    assert len(found) == 5
    assert told == [0, 1, 2, 3, 4]


def test_a_hopeless_trial_is_pruned() -> None:
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

    _, found = search(Worsening(), FOLDS, CONTEXT, Budget(7))
    assert len(found) == 7
    assert [t.number for t in found if t.value is None]


def test_several_folds_are_averaged() -> None:
    _, one = search(LOGISTIC, FOLDS, CONTEXT, Budget(1))
    _, other = search(LOGISTIC, [(part(3), part(4))], CONTEXT, Budget(1))
    _, both = search(LOGISTIC, [*FOLDS, (part(3), part(4))], CONTEXT, Budget(1))
    values = [t[0].value for t in (one, other, both)]
    assert values[2] == pytest.approx((values[0] + values[1]) / 2)  # type: ignore[operator]
