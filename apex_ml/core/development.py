"""Develop a model from three parts of examples. Pure: tables in, model and metrics out.

Selection, search, early stopping, calibration and decision weights use training and validation only. The test part is
scored once, at the end. Nothing is fitted on it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from apex_ml.contract.feature_column import FeatureColumn
from apex_ml.core import calibration as calibrating
from apex_ml.core import decision
from apex_ml.core.calibration import Calibration
from apex_ml.core.candidates import ALWAYS_REPORTED, candidate
from apex_ml.core.candidates.interface import FitContext, Fitted, Part
from apex_ml.core.degradation import Expectation
from apex_ml.core.estimator import Encoder, Model
from apex_ml.core.evaluation import (
    class_shares,
    classification,
    confusion,
    order_losses,
    prior_losses,
)
from apex_ml.core.leakage import SingleFeature, refuse_leaks, single_feature_gains
from apex_ml.core.profile import PROFILE, RECENT, Profile, bins_of
from apex_ml.core.search import Budget, Trial, search
from apex_ml.core.selection import FeatureRules, FeatureVerdict, NoiseTest, beats_noise
from apex_ml.core.training_keys import order_keys, pack_keys
from apex_ml.core.uncertainty import Clusters, bootstrap_interval
from apex_ml.errors import ConfigError, DataError

WORTH = 1e-4
"""Nats by which a contender must beat an earlier one in the list."""

EXPLAINED_ROWS = 2_000
"""Orders of the test part whose contributions are averaged: enough for two digits of each mean."""


@dataclass(frozen=True)
class Options:
    """Options of a development. The best contender on validation wins; of equal ones the first in the list.

    A feature that alone removes the share `suspicious_gain` of the class prior's log loss is a leak and raises an
    error; with None it is only reported. `rules` replace the noise test of the feature selection. `fixed` holds
    parameters of candidates that are used without a search. With `search_folds` above 1 the search scores parameters
    by rolling-origin cross-validation inside the training part instead of on validation.
    """

    contenders: tuple[str, ...] = ("xgboost",)
    selection: str = "noise"
    """``noise``, ``none``, or the name of the `rules`."""
    rules: FeatureRules | None = None
    suspicious_gain: float | None = None
    budget: Budget = field(default_factory=lambda: Budget(0))
    search_folds: int = 1
    fixed: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    class_weights: Literal["none", "balanced"] = "none"
    early_stopping_rounds: int = 30
    device: Literal["cpu", "cuda"] = "cpu"
    seed: int = 42
    threads: int = 2


@dataclass(frozen=True)
class Examples:
    """One part: features of n orders, class indexes (n,), clusters (n,), and days (n,) for rolling folds."""

    table: pa.Table
    y: np.ndarray
    entities: np.ndarray
    days: np.ndarray | None = None


@dataclass(frozen=True)
class Development:
    """A model and the record of its development."""

    model: Model
    winner: str
    params: Mapping[str, Any]
    chosen: Mapping[str, Mapping[str, Any]]
    curve: Mapping[str, list[float]]
    single_features: tuple[SingleFeature, ...]
    verdicts: tuple[FeatureVerdict, ...]
    trials: tuple[Trial, ...]
    candidates: dict[str, float]
    calibration_losses: dict[str, float]
    metrics: dict[str, float]
    tables: dict[str, Any]
    expected: Expectation


def develop(
    parts: Mapping[str, Examples],
    columns: tuple[FeatureColumn, ...],
    classes: tuple[str, ...],
    segments: tuple[str, ...],
    options: Options,
    about: Mapping[str, Any],
    *,
    storage: str | None = None,
    on_trial: Callable[[Trial], None] | None = None,
) -> Development:
    """Develop a model from the parts ``train``, ``validation`` and ``test``.

    `segments` are columns of the test table; the loss is reported for each of their values. Raises
    :class:`~apex_ml.errors.DataError` when a part is empty, the target is constant, no feature is left, or one leaks
    the target; :class:`~apex_ml.errors.ConfigError` without `columns`.
    """
    if not columns:
        raise ConfigError(
            "train: the contract declares no feature: name some under features: attributes, calendar or history"
        )
    _refuse_hopeless(parts, classes)
    train, validation = parts["train"], parts["validation"]
    encoder = Encoder.fit(columns, train.table)
    fit, held_out = ((encoder.encode(part.table), part.y) for part in (train, validation))
    single_features = single_feature_gains(encoder.names, fit, held_out, len(classes))
    if options.suspicious_gain is not None:
        refuse_leaks(single_features, options.suspicious_gain)
    encoder, verdicts = _select(encoder, fit, held_out, len(classes), options)
    x = {name: Part(encoder.encode(part.table), part.y) for name, part in parts.items()}
    context = FitContext(
        classes=classes,
        columns=encoder.columns,
        seed=options.seed,
        threads=options.threads,
        device=options.device,
        class_weights=options.class_weights,
        early_stopping_rounds=options.early_stopping_rounds,
    )
    fits: dict[str, Fitted] = {}
    losses: dict[str, float] = {}
    trials: list[Trial] = []
    chosen: dict[str, Mapping[str, Any]] = {}
    names = dict.fromkeys([*options.contenders, *ALWAYS_REPORTED])
    for name in names:
        kind = candidate(name)
        params = {**kind.defaults(context), **options.fixed.get(name, {})}
        if name in options.contenders and options.budget.trials and params and name not in options.fixed:
            folds = _folds(x["train"], train.days, options.search_folds) or [(x["train"], x["validation"])]
            params, tried = search(kind, folds, context, options.budget, storage=storage, on_trial=on_trial)
            trials += tried
        chosen[name] = params
        fits[name] = kind.fit(params, x["train"], x["validation"], context)
        raw = kind.load(fits[name].content).predict(x["validation"].x)
        losses[name] = float(order_losses(_corrected(raw, train.y, classes, options, name), validation.y).mean())
    winner = options.contenders[0]
    for name in options.contenders[1:]:
        if losses[name] < losses[winner] - WORTH:
            winner = name
    model = Model(
        encoder, fits[winner].content, classes, about, candidate=winner, training_keys=_keys(train, validation)
    )
    raw = model.raw_probabilities(validation.table)
    ratio = _prior_ratio(train.y, classes, options)
    calibration, calibration_losses = calibrating.choose(raw, validation.y, seed=options.seed, prior_ratio=ratio)
    weights = decision.tune(calibration.apply(raw), validation.y)
    model = replace(model, calibration=calibration, weights=weights)
    recent = {name: about[PROFILE][name] for name in (RECENT,) if name in about.get(PROFILE, {})}
    model = replace(model, about={**about, PROFILE: _profile(model, columns, train, validation) | recent})
    metrics, tables = evaluate(model, parts, segments, options.seed)
    return Development(
        model=model,
        winner=winner,
        params=fits[winner].params,
        chosen=chosen,
        curve=fits[winner].curve,
        single_features=single_features,
        verdicts=verdicts,
        trials=tuple(trials),
        candidates=losses,
        calibration_losses=calibration_losses,
        metrics=metrics,
        tables=tables,
        expected=Expectation.of(
            order_losses(model.probabilities(parts["test"].table), parts["test"].y), parts["test"].entities
        ),
    )


def _profile(model: Model, columns: tuple[FeatureColumn, ...], train: Examples, validation: Examples) -> dict[str, Any]:
    """Profile of the features of the training examples, and of the predictions on newer ones."""
    profile = Profile(bins_of(columns, train.table), len(model.classes))
    profile.add_features(train.table)
    prediction = model.predict(validation.table)
    profile.add_predictions(prediction.predicted, prediction.confidence)
    return profile.as_dict()


def _keys(*parts: Examples) -> bytes:
    known = [order_keys(part.entities, part.days) for part in parts if part.days is not None]
    return pack_keys(np.concatenate(known)) if known else b""


def _folds(part: Part, days: np.ndarray | None, folds: int) -> list[tuple[Part, Part]]:
    """Rolling origins: fold i is fitted on the first i of equal blocks in time and scored on the next one."""
    if folds < 2 or days is None:
        return []
    cuts = np.quantile(days, np.linspace(0, 1, folds + 2)[1:-1])
    block = np.searchsorted(cuts, days, side="left")
    pairs = []
    for i in range(1, folds + 1):
        before, after = block < i, block == i
        if before.any() and after.any() and len(np.unique(part.y[before])) > 1:
            pairs.append((Part(part.x[before], part.y[before]), Part(part.x[after], part.y[after])))
    return pairs


def _refuse_hopeless(parts: Mapping[str, Examples], classes: tuple[str, ...]) -> None:
    for name, part in parts.items():
        if not len(part.y):
            raise DataError(f"train: the {name} part is empty; there are too few examples to divide")
    present = np.bincount(parts["train"].y, minlength=len(classes)) > 0
    if present.sum() < 2:
        only = classes[int(present.argmax())]
        raise DataError(f"train: every training order has the same target, {only}, so no model can be fitted")


def _select(
    encoder: Encoder,
    fit: tuple[np.ndarray, np.ndarray],
    held_out: tuple[np.ndarray, np.ndarray],
    classes: int,
    options: Options,
) -> tuple[Encoder, tuple[FeatureVerdict, ...]]:
    if options.rules is not None:
        verdicts = options.rules(encoder.columns, fit[0])
    elif options.selection == "none":
        return encoder, ()
    else:
        noise_test = NoiseTest(seed=options.seed, threads=options.threads)
        verdicts = beats_noise(encoder.names, fit, held_out, classes, noise_test)
    kept = {v.name for v in verdicts if v.kept}
    if not kept:
        raise DataError("train: no feature is left: " + "; ".join(f"{v.name}: {v.reason}" for v in verdicts))
    return Encoder(tuple(c for c in encoder.columns if c.name in kept)), verdicts


def _prior_ratio(y: np.ndarray, classes: tuple[str, ...], options: Options) -> tuple[float, ...]:
    """True prior over the prior of balanced training, by class; empty where training was not weighted."""
    if options.class_weights == "none":
        return ()
    counts = np.bincount(y, minlength=len(classes))
    uniform = (counts > 0) / max(int((counts > 0).sum()), 1)
    shares = class_shares(y, len(classes))
    return tuple((shares / np.where(uniform > 0, uniform, 1)).tolist())


def _corrected(raw: np.ndarray, y: np.ndarray, classes: tuple[str, ...], options: Options, name: str) -> np.ndarray:
    if name == "prior":
        return raw
    return Calibration(prior_ratio=_prior_ratio(y, classes, options)).apply(raw)


def evaluate(
    model: Model, parts: Mapping[str, Examples], segments: tuple[str, ...], seed: int
) -> tuple[dict[str, float], dict[str, Any]]:
    """Metrics and tables of a model: the log loss of all parts, all metrics of the test part."""
    metrics: dict[str, float] = {}
    shares = np.asarray(model.about.get("class_shares") or class_shares(parts["train"].y, len(model.classes)))
    for name, part in parts.items():
        p = model.probabilities(part.table)
        if not np.isfinite(p).all():
            raise DataError(f"train: the model returns non-finite probabilities on the {name} part")
        metrics[f"{name}_log_loss"] = float(order_losses(p, part.y).mean())
        metrics[f"{name}_prior_log_loss"] = float(prior_losses(shares, part.y).mean())
    test = parts["test"]
    prediction = model.predict(test.table)
    p, predicted = prediction.probabilities, prediction.predicted
    losses, prior = order_losses(p, test.y), prior_losses(shares, test.y)
    metrics |= {f"test_{k}": v for k, v in classification(p, test.y, model.classes).items()}
    metrics["test_weighted_macro_f1"] = decision.macro_f1(test.y, predicted, len(model.classes))
    metrics["test_weighted_accuracy"] = float((predicted == test.y).mean())
    low, high = bootstrap_interval(Clusters.of(losses, test.entities), seed)
    gain_low, gain_high = bootstrap_interval(Clusters.of(prior - losses, test.entities), seed)
    raw = model.raw_probabilities(test.table)
    ece_low, ece_high = calibrating.calibration_error_interval(p, test.y, test.entities, seed=seed)
    metrics |= {
        "test_log_loss_low": low,
        "test_log_loss_high": high,
        "test_gain_over_prior": float((prior - losses).mean()),
        "test_gain_over_prior_low": gain_low,
        "test_gain_over_prior_high": gain_high,
        "test_ece": calibrating.expected_calibration_error(p, test.y),
        "test_ece_low": ece_low,
        "test_ece_high": ece_high,
        "test_ece_before_calibration": calibrating.expected_calibration_error(raw, test.y),
    }
    tables = {
        "confusion": confusion(p, test.y, model.classes),
        "confusion_weighted": _confusion_of(predicted, test.y, len(model.classes)),
        "reliability_before": calibrating.reliability(raw, test.y),
        "reliability_after": calibrating.reliability(p, test.y),
        "segments": {name: _segment(test.table.column(name), losses, prior) for name in segments},
        "importance": permutation_importance(model, test, seed),
    }
    if contributions := mean_contributions(model, test.table, seed):
        tables["contributions"] = contributions
    return metrics, tables


def mean_contributions(model: Model, table: pa.Table, seed: int, rows: int = EXPLAINED_ROWS) -> list[dict[str, Any]]:
    """Mean absolute contribution of each feature to the margin of each class, largest sum over the classes first.

    In log odds before calibration, on at most `rows` orders drawn without replacement. Empty when the candidate has no
    contributions.
    """
    n = table.num_rows
    chosen = np.arange(n) if n <= rows else np.sort(np.random.default_rng(seed).choice(n, rows, replace=False))
    contributions = model.contributions(table.take(pa.array(chosen)))
    if contributions is None:
        return []
    mean = np.abs(contributions).mean(axis=0, dtype=np.float64)
    order = np.argsort(-mean.sum(axis=0), kind="stable")
    names = model.encoder.names
    return [
        {
            "feature": names[i],
            "classes": dict(zip(model.classes, mean[:, i].tolist(), strict=True)),
            "orders": len(chosen),
        }
        for i in order
    ]


def _confusion_of(predicted: np.ndarray, y: np.ndarray, classes: int) -> list[list[int]]:
    counts: list[list[int]] = (
        np.bincount(y * classes + predicted, minlength=classes * classes).reshape(classes, classes).tolist()
    )
    return counts


def _segment(column: pa.ChunkedArray, losses: np.ndarray, prior: np.ndarray) -> list[dict[str, Any]]:
    values = np.asarray(["unknown" if v is None else str(v) for v in column.to_pylist()])
    rows = []
    for value in np.unique(values):
        chosen = values == value
        rows.append(
            {
                "value": str(value),
                "orders": int(chosen.sum()),
                "log_loss": float(losses[chosen].mean()),
                "prior_log_loss": float(prior[chosen].mean()),
            }
        )
    return rows


def permutation_importance(model: Model, part: Examples, seed: int, repeats: int = 3) -> dict[str, float]:
    """Mean increase of the log loss when a feature is permuted, in nats (Breiman, Random Forests, 2001)."""
    rng = np.random.default_rng(seed)
    base = float(order_losses(model.probabilities(part.table), part.y).mean())
    rises: dict[str, float] = {}
    for name in model.encoder.names:
        increases = []
        for _ in range(repeats):
            place = part.table.schema.get_field_index(name)
            shuffled = part.table.column(name).take(pa.array(rng.permutation(part.table.num_rows)))
            table = part.table.set_column(place, part.table.schema.field(place), shuffled)
            increases.append(float(order_losses(model.probabilities(table), part.y).mean()) - base)
        rises[name] = float(np.mean(increases))
    return rises
