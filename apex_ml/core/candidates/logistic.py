"""Multinomial logistic regression on one-hot levels and standardised numbers: the linear baseline."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from apex_ml.contract.feature_column import FeatureColumn
from apex_ml.core.candidates.interface import Candidate, FitContext, Fitted, Part, Scorer
from apex_ml.errors import DataError
from apex_ml.json_text import json_text

if TYPE_CHECKING:
    import optuna

ONE_HOT_LIMIT = 50
"""Maximum one-hot columns of a feature. The rarest levels beyond it share one column with the unknown level."""


FARTHEST = 1e6
"""Standard deviations from the mean beyond which a number counts as this far: a larger one could overflow."""


def design(x: np.ndarray, widths: list[int], centre: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Design matrix. `widths` is the number of one-hot columns of each feature, 0 for a number.

    A number gives two columns: its standardised value, 0 where unknown, and whether it is unknown.
    """
    parts = []
    for index, width in enumerate(widths):
        column = x[:, index]
        if width:
            codes = np.where(column < width, column, 0).astype(np.int64)
            parts.append(np.eye(width, dtype=np.float32)[codes])
        else:
            unknown = np.isnan(column)
            value = np.where(unknown, 0, (column - centre[index]) / scale[index])
            value = np.clip(value, -FARTHEST, FARTHEST)
            parts.append(np.stack([value, unknown], axis=1).astype(np.float32))
    return np.hstack(parts)


class _Linear:
    def __init__(self, content: dict[str, Any]) -> None:
        self._widths: list[int] = content["widths"]
        self._centre, self._scale = np.asarray(content["centre"]), np.asarray(content["scale"])
        self._coefficients = np.asarray(content["coefficients"])
        self._intercepts = np.asarray(content["intercepts"])

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Softmax of the linear scores."""
        scores = design(x, self._widths, self._centre, self._scale) @ self._coefficients.T + self._intercepts
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        p: np.ndarray = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
        return p


class Logistic(Candidate):
    """Logistic regression with an L2 penalty."""

    name = "logistic"
    file = "logistic.json"

    def defaults(self, context: FitContext) -> dict[str, Any]:
        """A mild penalty."""
        return {"penalty": 1.0}

    def suggest(self, trial: optuna.Trial) -> dict[str, Any]:
        """Draw a penalty."""
        return {"penalty": trial.suggest_float("penalty", 1e-3, 1e3, log=True)}

    def fit(self, params: Mapping[str, Any], train: Part, validation: Part, context: FitContext) -> Fitted:
        """Fit by L-BFGS. Raises DataError when the training target is constant."""
        present = np.unique(train.y)
        if len(present) < 2:
            raise DataError("train: every training row has the same target, so no model can be fitted")
        widths = [_width(column) for column in context.columns]
        numbers = np.asarray([not width for width in widths])
        known = np.where(np.isfinite(train.x), train.x.astype(np.float64), np.nan)  # a float's square may overflow
        blank = np.isnan(known).all(axis=0)
        centre, scale = np.zeros(len(widths)), np.ones(len(widths))
        usable = numbers & ~blank
        centre[usable] = np.nanmean(known[:, usable], axis=0)
        scale[usable] = np.maximum(np.nanstd(known[:, usable], axis=0), 1e-9)
        weight = "balanced" if context.class_weights == "balanced" else None
        model = LogisticRegression(C=1 / params["penalty"], max_iter=200, class_weight=weight, tol=1e-4)
        with warnings.catch_warnings():
            # the validation loss shows how good the fit is, of rare classes and where more iterations would change it
            warnings.simplefilter("ignore", ConvergenceWarning)
            warnings.filterwarnings("ignore", message="The number of unique classes", category=UserWarning)
            model.fit(design(train.x, widths, centre, scale), train.y)
        coefficients, intercepts = _full(model, len(context.classes))
        content = {
            "widths": widths,
            "centre": centre.tolist(),
            "scale": scale.tolist(),
            "coefficients": coefficients.tolist(),
            "intercepts": intercepts.tolist(),
        }
        return Fitted(json_text(content).encode(), dict(params), {})

    def load(self, content: bytes) -> Scorer:
        """Read the coefficients."""
        return _Linear(json.loads(content))


def _width(column: FeatureColumn) -> int:
    return min(len(column.levels or ()) + 1, ONE_HOT_LIMIT) if column.has_codes else 0


def _full(model: LogisticRegression, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients of every class. A class absent from training gets a score so low that its probability is 0."""
    coefficients, intercepts = model.coef_, model.intercept_
    if len(model.classes_) == 2:  # scikit-learn keeps one row for two classes
        coefficients = np.vstack([-coefficients / 2, coefficients / 2])
        intercepts = np.concatenate([-intercepts / 2, intercepts / 2])
    full = np.zeros((classes, coefficients.shape[1]))
    scores = np.full(classes, -20.0)
    full[model.classes_] = coefficients
    scores[model.classes_] = intercepts
    return full, scores


CANDIDATE = Logistic()
