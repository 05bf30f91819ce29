"""XGBoost with its own categories, behind an explicit unknown level: the candidate for columns of many levels.

XGBoost splits a column of many levels by sets of them, which finds more than splits of an order of codes. But it scores
a level that it never met as some other one. Here such a level is missing, as are null and levels of few training rows;
and training has missing values in every such column, so that trees learn where a row without a known level belongs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import xgboost as xgb

from apex_ml.contract.feature_column import FeatureColumn
from apex_ml.core.candidates.interface import FitContext, Fitted, Part
from apex_ml.core.candidates.xgboost import (
    SMALL_ROWS,
    TrainingSettings,
    XGBoostTrees,
    fit_xgboost,
    training_settings,
)
from apex_ml.json_text import json_text

MAX_ORDERED_LEVELS = 10
"""Levels up to which codes are split in their order, which scores faster and finds as much."""
MIN_LEVEL_ROWS = 5
"""Training rows of a level below which it counts as unknown, unless the contract says how many it needs."""
MIN_UNKNOWN = 0.005
"""Share of training rows without a known level that every column of native levels has at least."""
MAX_ROUNDS, MAX_TREES = 1000, 12_000
"""Maximum of rounds with early stopping, which slow trees of few rows need, and of trees: a round has one a class."""
KNOWN = "known_levels"
PRESETS = (
    {
        "max_depth": 6,
        "learning_rate": 0.1,
        "min_child_weight": 1.0,
        "subsample": 0.9,
        "colsample_bytree": 0.7,
        "reg_lambda": 1.0,
    },
    {
        "max_depth": 3,
        "learning_rate": 0.05,
        "min_child_weight": 1.0,
        "subsample": 0.8,
        "colsample_bytree": 0.5,
        "reg_lambda": 1.0,
    },
    {
        "max_depth": 4,
        "learning_rate": 0.1,
        "min_child_weight": 20.0,
        "subsample": 0.9,
        "colsample_bytree": 0.9,
        "reg_lambda": 5.0,
    },
)
"""Deep trees for many rows and strong signals, shallow ones for few rows, careful ones for weak signals."""

MIN_DRAWN = 3
"""Features that each tree must be able to draw: of fewer, it could not see what two say only together."""

Known = list[list[int] | None]
"""For each feature the codes of its known levels; None for a number and for codes that are split in their order."""


class _NativeBooster:
    """Scores codes with a booster that knows some columns by their levels."""

    def __init__(self, content: bytes) -> None:
        self._booster = xgb.Booster(model_file=bytearray(content))
        self._for_small = xgb.Booster({"nthread": 1}, model_file=bytearray(content))
        self._known: Known = json.loads(self._booster.attr(KNOWN))

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Probability of each class, float32, shape (n, k)."""
        booster = self._for_small if len(x) <= SMALL_ROWS else self._booster
        p: np.ndarray = booster.inplace_predict(with_missing(x, self._known))
        return p

    def contributions(self, x: np.ndarray) -> np.ndarray:
        """XGBoost's own SHAP values (Lundberg et al., Consistent Individualized Feature Attribution, 2018)."""
        data = xgb.DMatrix(with_missing(x, self._known), feature_types=_types(self._known), enable_categorical=True)
        contributions: np.ndarray = self._booster.predict(data, pred_contribs=True, strict_shape=True)
        return contributions[:, :, :-1]


class XGBoostNative(XGBoostTrees):
    """Gradient-boosted trees that split columns of many levels by sets of levels."""

    name = "xgboost_native"
    file = "booster.ubj"
    requirements = ("xgboost",)

    def defaults(self, context: FitContext) -> dict[str, Any]:
        """Parameters that a search tries first."""
        return _drawing_enough(PRESETS[0], context)

    def presets(self, context: FitContext) -> tuple[dict[str, Any], ...]:
        """Deep, shallow and careful trees."""
        return tuple(_drawing_enough(preset, context) for preset in PRESETS)

    def fit(self, params: Mapping[str, Any], train: Part, validation: Part, context: FitContext) -> Fitted:
        """Train with early stopping on the validation part."""
        limit = min(MAX_ROUNDS, MAX_TREES // len(context.classes))
        rounds = limit if context.early_stopping_rounds else TrainingSettings.rounds
        settings = training_settings({"rounds": rounds, **params}, context)
        known = known_levels(context.columns, train.x)
        x = _with_some_unknown(with_missing(train.x, known), known, context.seed)
        trained = fit_xgboost(
            (x, train.y),
            (with_missing(validation.x, known), validation.y),
            len(context.classes),
            settings,
            context.report,
            watch=context.watch,
            feature_types=_types(known),
        )
        booster = xgb.Booster(model_file=bytearray(trained.booster))
        booster.set_attr(**{KNOWN: json_text(known)})
        content = bytes(booster.save_raw("ubj"))
        return Fitted(content, {**asdict(settings), "best_round": trained.best_round}, trained.curve)

    def load(self, content: bytes) -> _NativeBooster:
        """Read a booster."""
        return _NativeBooster(content)


def _drawing_enough(preset: Mapping[str, Any], context: FitContext) -> dict[str, Any]:
    """The parameters; where a tree would draw too few of few features, it draws all."""
    drawn = int(preset["colsample_bytree"] * len(context.columns))
    return {**preset, **({"colsample_bytree": 1.0} if drawn < MIN_DRAWN else {})}


def known_levels(columns: tuple[FeatureColumn, ...], x: np.ndarray) -> Known:
    """The codes with enough training rows of every column of more than MAX_ORDERED_LEVELS levels.

    Enough are those that the contract asks for, else MIN_LEVEL_ROWS.
    """
    known: Known = []
    for index, column in enumerate(columns):
        if not column.has_codes or len(column.levels or ()) <= MAX_ORDERED_LEVELS:
            known.append(None)
            continue
        rows = np.bincount(x[:, index].astype(np.int64))
        rows[0] = 0
        known.append(np.flatnonzero(rows >= (column.min_rows or MIN_LEVEL_ROWS)).tolist())
    return known


def with_missing(x: np.ndarray, known: Known) -> np.ndarray:
    """Codes (n, f) with NaN in place of levels that are not known."""
    if not any(codes is not None for codes in known):
        return x
    x = x.copy()
    for index, codes in enumerate(known):
        if codes is not None:
            kept = np.full(max([*codes, 0]) + 2, np.nan, np.float32)
            kept[codes] = codes
            x[:, index] = kept[np.minimum(x[:, index], len(kept) - 1).astype(np.int64)]
    return x


def _with_some_unknown(x: np.ndarray, known: Known, seed: int) -> np.ndarray:
    """Codes of which every column of native levels has a share of MIN_UNKNOWN without a known level."""
    rng = np.random.default_rng(seed)
    for index, codes in enumerate(known):
        if codes is not None and (lacking := MIN_UNKNOWN - np.isnan(x[:, index]).mean()) > 0:
            x[rng.random(len(x)) < lacking, index] = np.nan
    return x


def _types(known: Known) -> list[str]:
    return ["q" if codes is None else "c" for codes in known]


CANDIDATE = XGBoostNative()
