"""The model: an encoder that knows the unknown, and an XGBoost booster on integer codes.

XGBoost's own categoricals score an unseen level silently as another one, so the encoding is ours: code 0 is the unknown
level (null included), 1… are the levels. The same table gives the same codes everywhere.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xgboost as xgb

from apex_ml.core.features import FeatureColumn
from apex_ml.errors import DataError

BOOSTER_FILE = "booster.ubj"
MODEL_FILE = "model.json"
LEVELS_LIMIT = 1000
"""Levels learned for a column without a domain; rarer ones are the unknown level."""


@dataclass(frozen=True)
class Encoder:
    """Turns a table of features into float32 codes and numbers, shape (n, len(columns))."""

    columns: tuple[FeatureColumn, ...]

    @classmethod
    def fit(cls, columns: tuple[FeatureColumn, ...], table: pa.Table) -> Encoder:
        """Learn the levels of categorical columns that have none: the most frequent ones, ties by name."""
        learned = []
        for column in columns:
            if column.kind == "categorical" and column.levels is None:
                counts = pc.value_counts(table.column(column.name).drop_null())
                pairs = sorted(
                    ((c["counts"].as_py(), c["values"].as_py()) for c in counts), key=lambda p: (-p[0], p[1])
                )
                column = FeatureColumn(column.name, "categorical", tuple(level for _, level in pairs[:LEVELS_LIMIT]))
            learned.append(column)
        return cls(tuple(learned))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the features, in the order of the matrix."""
        return tuple(c.name for c in self.columns)

    def encode(self, table: pa.Table) -> np.ndarray:
        """Encode n rows. Raises :class:`~apex_ml.errors.DataError` naming every feature that the table lacks."""
        if lacking := [n for n in self.names if n not in table.column_names]:
            raise DataError(f"the model needs features that the table lacks: {', '.join(lacking)}")
        matrix = np.empty((table.num_rows, len(self.columns)), np.float32)
        for index, column in enumerate(self.columns):
            values = table.column(column.name)
            if column.kind == "categorical":
                codes = pc.fill_null(pc.index_in(values, value_set=pa.array(column.levels or (), pa.string())), -1)
                matrix[:, index] = codes.to_numpy() + 1
            else:
                matrix[:, index] = pc.fill_null(values.cast(pa.float64()), float("nan")).to_numpy()
        return matrix


@dataclass(frozen=True)
class Model:
    """Everything needed to score: encoder, booster, classes and what the model was made from."""

    encoder: Encoder
    booster: bytes
    classes: tuple[str, ...]
    about: Mapping[str, Any]

    @cached_property
    def _booster(self) -> xgb.Booster:
        return xgb.Booster(model_file=bytearray(self.booster))

    def probabilities(self, table: pa.Table) -> np.ndarray:
        """Probability of each class for n rows of features, float32, shape (n, len(classes))."""
        if table.num_rows == 0:
            return np.empty((0, len(self.classes)), np.float32)
        p: np.ndarray = self._booster.inplace_predict(self.encoder.encode(table))
        return p

    def to_files(self) -> dict[str, bytes]:
        """The model as named files: XGBoost's own format and JSON, nothing pickled."""
        content = {
            "classes": self.classes,
            "features": [asdict(c) for c in self.encoder.columns],
            "about": dict(self.about),
        }
        return {BOOSTER_FILE: self.booster, MODEL_FILE: json.dumps(content, indent=1, sort_keys=True).encode()}

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> Model:
        """Read what :meth:`to_files` wrote."""
        content = json.loads(files[MODEL_FILE])
        columns = tuple(
            FeatureColumn(c["name"], c["kind"], None if c["levels"] is None else tuple(c["levels"]))
            for c in content["features"]
        )
        return cls(Encoder(columns), files[BOOSTER_FILE], tuple(content["classes"]), content["about"])


@dataclass(frozen=True)
class TrainingSettings:
    """How a booster is trained. `rounds` is the most; early stopping may end sooner."""

    max_depth: int = 4
    learning_rate: float = 0.1
    min_child_weight: float = 20.0
    subsample: float = 0.9
    colsample_bytree: float = 0.9
    reg_lambda: float = 5.0
    rounds: int = 400
    early_stopping_rounds: int = 30
    class_weights: Literal["none", "balanced"] = "none"
    device: Literal["cpu", "cuda"] = "cpu"
    seed: int = 42
    threads: int = 2


@dataclass(frozen=True)
class Trained:
    """A booster with its best round (from 0) and the log loss on train and validation after every round."""

    booster: bytes
    best_round: int
    validation_log_loss: float
    curve: dict[str, list[float]]


def balanced_weights(y: np.ndarray, classes: int) -> np.ndarray:
    """Weight of every order so that each class that occurs weighs the same, mean 1, shape (n,)."""
    counts = np.bincount(y, minlength=classes)
    present = int((counts > 0).sum())
    weights: np.ndarray = len(y) / (present * np.maximum(counts, 1))[y]
    return weights


def fit_xgboost(
    train: tuple[np.ndarray, np.ndarray],
    validation: tuple[np.ndarray, np.ndarray],
    classes: int,
    settings: TrainingSettings,
) -> Trained:
    """Train multi:softprob on codes. Each part is (matrix (n, f), class indexes (n,)).

    Raises :class:`~apex_ml.errors.DataError` when a part is empty or the target is constant: there is nothing to learn.
    """
    (x, y), (xv, yv) = train, validation
    if not len(y) or not len(yv):
        raise DataError(f"train: {len(y)} training and {len(yv)} validation orders; both parts need some")
    if len(np.unique(y)) < 2:
        raise DataError("train: every training order has the same target; there is nothing to learn")
    weights = balanced_weights(y, classes) if settings.class_weights == "balanced" else None
    dtrain = xgb.QuantileDMatrix(x, y, weight=weights, nthread=settings.threads)
    dvalidation = xgb.QuantileDMatrix(xv, yv, ref=dtrain, nthread=settings.threads)
    parameters = {
        "objective": "multi:softprob",
        "num_class": classes,
        "eval_metric": "mlogloss",
        "tree_method": "hist",
        "max_depth": settings.max_depth,
        "learning_rate": settings.learning_rate,
        "min_child_weight": settings.min_child_weight,
        "subsample": settings.subsample,
        "colsample_bytree": settings.colsample_bytree,
        "lambda": settings.reg_lambda,
        "device": settings.device,
        "seed": settings.seed,
        "nthread": settings.threads,
    }
    curve: dict[str, dict[str, list[float]]] = {}
    booster = xgb.train(
        parameters,
        dtrain,
        num_boost_round=settings.rounds,
        evals=[(dtrain, "train"), (dvalidation, "validation")],
        early_stopping_rounds=settings.early_stopping_rounds or None,
        evals_result=curve,
        verbose_eval=False,
    )
    best = booster.best_iteration if settings.early_stopping_rounds else booster.num_boosted_rounds() - 1
    best_booster = booster[: best + 1]
    return Trained(
        booster=bytes(best_booster.save_raw("ubj")),
        best_round=best,
        validation_log_loss=float(curve["validation"]["mlogloss"][best]),
        curve={part: values["mlogloss"] for part, values in curve.items()},
    )
