"""What people use today, on the same rows: XGBoost and scikit-learn's histogram boosting with their own categories."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xgboost as xgb
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score

from apex_ml.core.evaluation import row_losses
from apex_ml.core.examples import Examples

ROUNDS, EARLY_STOPPING_ROUNDS, RATE = 1000, 30, 0.1
MAX_HIST_LEVELS = 254
"""scikit-learn's histogram boosting takes columns of at most 255 levels: the rarer ones are missing."""


@dataclass(frozen=True)
class Scores:
    """Scores on the test rows. The AUC is that of each class against the others, mean; `seconds` are of the fit."""

    log_loss: float
    accuracy: float
    auc: float
    seconds: float

    @classmethod
    def of(cls, p: np.ndarray, y: np.ndarray, seconds: float) -> Scores:
        """Score probabilities of shape (n, k)."""
        present = [k for k in range(p.shape[1]) if 0 < (y == k).sum() < len(y)]
        auc = float(np.mean([roc_auc_score(y == k, p[:, k]) for k in present]))
        return cls(float(row_losses(p, y).mean()), float((p.argmax(axis=1) == y).mean()), auc, seconds)


def score_peers(
    parts: Mapping[str, Examples], attributes: list[str], classes: int, *, seed: int, threads: int
) -> dict[str, Scores]:
    """Fit both on the training part, stop early on validation, and score the test part."""
    frames = _with_categories({name: part.table.select(attributes).to_pandas() for name, part in parts.items()})
    y = {name: part.y for name, part in parts.items()}
    scores = {}
    for name, predict in (("XGBoost", _xgboost), ("HistGradientBoosting", _histogram)):
        began = time.monotonic()
        p = predict(frames, y, classes, seed, threads)
        scores[name] = Scores.of(p, y["test"], time.monotonic() - began)
    return scores


def _with_categories(frames: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Text as categories of the training part; other levels are missing."""
    result = {name: frame.copy() for name, frame in frames.items()}
    for column in frames["train"].columns:
        if frames["train"][column].dtype.kind not in "fiub":
            levels = pd.CategoricalDtype(frames["train"][column].value_counts().index)
            for name, frame in frames.items():
                result[name][column] = pd.Categorical(frame[column], dtype=levels)
    return result


def _xgboost(
    frames: dict[str, pd.DataFrame], y: dict[str, np.ndarray], classes: int, seed: int, threads: int
) -> np.ndarray:
    objective = {"objective": "binary:logistic", "eval_metric": "logloss"}
    if classes > 2:
        objective = {"objective": "multi:softprob", "eval_metric": "mlogloss", "num_class": str(classes)}
    train, validation, test = (
        xgb.DMatrix(frames[name], y[name], enable_categorical=True, nthread=threads)
        for name in ("train", "validation", "test")
    )
    booster = xgb.train(
        objective | {"eta": RATE, "seed": seed, "nthread": threads},
        train,
        ROUNDS,
        evals=[(validation, "validation")],
        early_stopping_rounds=EARLY_STOPPING_ROUNDS,
        verbose_eval=False,
    )
    p: np.ndarray = booster.predict(test, iteration_range=(0, booster.best_iteration + 1))
    return p if classes > 2 else np.column_stack([1 - p, p])


def _histogram(
    frames: dict[str, pd.DataFrame], y: dict[str, np.ndarray], classes: int, seed: int, threads: int
) -> np.ndarray:
    limited = {name: frame.copy() for name, frame in frames.items()}
    for column in frames["train"].select_dtypes("category"):
        kept = frames["train"][column].cat.categories[:MAX_HIST_LEVELS]
        for frame in limited.values():
            frame[column] = frame[column].cat.set_categories(kept)
    model = HistGradientBoostingClassifier(
        categorical_features="from_dtype",
        learning_rate=RATE,
        max_iter=ROUNDS,
        early_stopping=True,
        n_iter_no_change=EARLY_STOPPING_ROUNDS,
        random_state=seed,
    )
    known = np.isin(y["validation"], np.unique(y["train"]))
    model.fit(
        limited["train"],
        y["train"],
        X_val=limited["validation"][known],
        y_val=y["validation"][known],
    )
    p = np.zeros((len(y["test"]), classes))
    p[:, model.classes_] = model.predict_proba(limited["test"])
    return p
