"""Feature selection: keep the features that beat noise, or those that the original rules keep.

The noise test follows Boruta (Kursa and Rudnicki, Feature Selection with the Boruta Package, JSS 2010): every feature
gets a shadow, a permuted copy without information, and is kept only if it is better than the best shadow. Unlike
Boruta, Apex measures importance on the validation part, by the increase of the loss when the column is permuted
(Breiman, Random Forests, 2001). Therefore overfitting to the training part does not count.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import xgboost as xgb
from scipy.stats import binom

from apex_ml.contract.feature_column import FeatureColumn
from apex_ml.core.evaluation import row_losses


@dataclass(frozen=True)
class FeatureVerdict:
    """Whether one feature is kept, and why.

    `importance` is in nats of validation log loss, mean over the repeats; None where a rule decided without a fit.
    """

    name: str
    kept: bool
    reason: str
    importance: float | None = None
    noise: float = 0.0
    wins: int = 0
    repeats: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Values for JSON."""
        return asdict(self)


USUAL_WIDTH = 240
"""Features times classes up to which the noise test takes all its rows."""
MIN_TEST_ROWS = 5_000

FeatureRules = Callable[[Sequence[FeatureColumn], np.ndarray], tuple[FeatureVerdict, ...]]
"""Rules that evaluate features by the encoded training part, shape (n, len(columns))."""


@dataclass(frozen=True)
class NoiseTest:
    """Options of the test. `rows` limits the rows of each part, because more do not improve the test."""

    repeats: int = 7
    alpha: float = 0.01
    rows: int = 40_000
    rounds: int = 40
    max_depth: int = 4
    seed: int = 42
    threads: int = 2


def rows_to_test(features: int, classes: int) -> int:
    """Rows of each part for the test: fewer where features and classes are many, since each takes its own time."""
    return int(np.clip(NoiseTest.rows * USUAL_WIDTH / (features * classes), MIN_TEST_ROWS, NoiseTest.rows))


def beats_noise(
    names: Sequence[str],
    train: tuple[np.ndarray, np.ndarray],
    validation: tuple[np.ndarray, np.ndarray],
    classes: int,
    test: NoiseTest,
    is_over: Callable[[], bool] = lambda: False,
) -> tuple[FeatureVerdict, ...]:
    """Compare every feature with the best of all shadows.

    Each part is (matrix (n, f), class indexes (n,)). A repeat fits a booster on features and fresh shadows; a feature
    wins it when its importance exceeds the largest of the shadows'. A feature without any signal wins with probability
    1 / (f + 1). A feature is kept when the probability of its wins by chance is below alpha / f (Bonferroni). If no
    feature passes, the most important one is kept, and its verdict says so. The repeats end when the result is certain,
    or when the time for them `is_over`: then features that more repeats could have kept stay.
    """
    (x, y), (xv, yv) = train, validation
    rng = np.random.default_rng(test.seed)
    features = len(names)
    wins = np.zeros(features, int)
    real = np.zeros((test.repeats, features))
    noise = np.zeros(test.repeats)
    chance = binom.sf(np.arange(test.repeats), test.repeats, 1 / (features + 1))  # of at least 1 … repeats wins
    enough = 1 + int((chance >= test.alpha / features).sum())
    done = 0

    def undecided() -> np.ndarray:
        between: np.ndarray = (wins < enough) & (wins + test.repeats - done >= enough)
        return between

    while not done or (undecided().any() and not is_over()):
        rows = _some(rng, len(y), test.rows)
        rows_v = _some(rng, len(yv), test.rows // 2)
        importance = _importance(rng, x[rows], y[rows], xv[rows_v], yv[rows_v], classes, test)
        real[done], noise[done] = importance[:features], importance[features:].max()
        wins += real[done] > max(noise[done], 0.0)
        done += 1
    kept = (wins >= enough) | undecided()
    mean = real[:done].mean(axis=0)
    only = not kept.any()
    if only:
        kept[int(mean.argmax())] = True
    return tuple(
        FeatureVerdict(
            name=name,
            kept=bool(kept[i]),
            importance=float(mean[i]),
            noise=float(noise[:done].mean()),
            wins=int(wins[i]),
            repeats=done,
            reason=_reason(bool(kept[i]), only, int(wins[i]), done),
        )
        for i, name in enumerate(names)
    )


def _reason(kept: bool, only: bool, wins: int, repeats: int) -> str:
    won = f"beat the best of the permuted copies in {wins} of {repeats} repeats"
    if kept and only:
        return f"no feature beats noise; this one comes closest ({won})"
    return f"{won}: {'more than chance' if kept else 'no more than chance'}"


def _some(rng: np.random.Generator, n: int, limit: int) -> np.ndarray:
    chosen: np.ndarray = np.arange(n) if n <= limit else np.sort(rng.choice(n, limit, replace=False))
    return chosen


def _importance(
    rng: np.random.Generator,
    x: np.ndarray,
    y: np.ndarray,
    xv: np.ndarray,
    yv: np.ndarray,
    classes: int,
    test: NoiseTest,
) -> np.ndarray:
    """Increase of the validation log loss when a column is permuted, features first and shadows after, shape (2 f,)."""
    features = x.shape[1]
    shadow = np.stack([rng.permutation(x[:, i]) for i in range(features)], axis=1)
    shadow_v = np.stack([rng.permutation(xv[:, i]) for i in range(features)], axis=1)
    full, full_v = np.hstack([x, shadow]), np.hstack([xv, shadow_v])
    booster = xgb.train(
        {
            "objective": "multi:softprob",
            "num_class": classes,
            "tree_method": "hist",
            "max_depth": test.max_depth,
            "learning_rate": 0.2,
            "min_child_weight": 20,
            "seed": int(rng.integers(2**31)),
            "nthread": test.threads,
        },
        xgb.QuantileDMatrix(full, y, nthread=test.threads),
        num_boost_round=test.rounds,
    )
    base = row_losses(booster.inplace_predict(full_v), yv).mean()
    used = {int(name[1:]) for name in booster.get_score(importance_type="weight")}
    rises = np.zeros(2 * features)
    for column in sorted(used):
        original = full_v[:, column].copy()
        full_v[:, column] = rng.permutation(original)
        rises[column] = row_losses(booster.inplace_predict(full_v), yv).mean() - base
        full_v[:, column] = original
    return rises
