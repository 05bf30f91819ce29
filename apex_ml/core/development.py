"""Develop a model from three parts of examples. Pure: tables in, model and metrics out.

Selection, search, early stopping, calibration and decision weights use training and validation only. The test part is
scored once, at the end. Nothing is fitted on it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from apex_ml.contract.feature_column import FeatureColumn
from apex_ml.contract.options import DecisionName
from apex_ml.core import calibration as calibrating
from apex_ml.core import decision
from apex_ml.core.calibration import Calibration
from apex_ml.core.candidates import ALWAYS_REPORTED, candidate
from apex_ml.core.candidates.interface import FitContext, Fitted, Part
from apex_ml.core.decision import Costs
from apex_ml.core.degradation import Expectation
from apex_ml.core.estimator import Encoder, Model
from apex_ml.core.evaluation import class_shares, row_losses
from apex_ml.core.examples import Examples
from apex_ml.core.leakage import SingleFeature, refuse_leaks, single_feature_gains
from apex_ml.core.model_evaluation import Tables, evaluate
from apex_ml.core.model_info import ModelInfo
from apex_ml.core.profile import ModelProfile, Profile, bins_of
from apex_ml.core.rolling_folds import rolling_folds
from apex_ml.core.search import Budget, Trial, search
from apex_ml.core.selection import FeatureRules, FeatureVerdict, NoiseTest, beats_noise
from apex_ml.core.training_keys import pack_keys, row_keys
from apex_ml.errors import ConfigError, DataError

MIN_ADVANTAGE = 1e-4
"""Nats by which a contender must beat an earlier one in the list."""


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
    decision: DecisionName = "most_probable"
    costs: Costs = ()
    """Costs of errors, for the decision ``cost``."""
    positive: int | None = None
    """Of two classes the index of the positive one."""
    class_weights: Literal["none", "balanced"] = "none"
    early_stopping_rounds: int = 30
    device: Literal["cpu", "cuda"] = "cpu"
    seed: int = 42
    threads: int = 2


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
    tables: Tables
    expected: Expectation


@dataclass
class _Contest:
    """The fitted contenders, with their settings and their log losses on validation."""

    fits: dict[str, Fitted] = field(default_factory=dict)
    losses: dict[str, float] = field(default_factory=dict)
    params: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    trials: list[Trial] = field(default_factory=list)

    def winner(self, contenders: tuple[str, ...]) -> str:
        """The best contender; of nearly equal ones the first."""
        best = contenders[0]
        for name in contenders[1:]:
            if self.losses[name] < self.losses[best] - MIN_ADVANTAGE:
                best = name
        return best


def develop(
    parts: Mapping[str, Examples],
    columns: tuple[FeatureColumn, ...],
    classes: tuple[str, ...],
    segments: tuple[str, ...],
    options: Options,
    info: ModelInfo,
    *,
    storage: str | None = None,
    on_trial: Callable[[Trial], None] | None = None,
) -> Development:
    """Develop a model from the parts ``train``, ``validation`` and ``test``.

    `segments` are columns of the test table; the loss is reported for each of their values. `on_trial` gets each trial
    of the search. Raises :class:`~apex_ml.errors.DataError` when a part is empty, the target is constant, no feature
    is left, or one leaks the target; :class:`~apex_ml.errors.ConfigError` without `columns`.
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
    contest = _fit_contenders(parts, encoder, classes, options, storage, on_trial)
    winner = contest.winner(options.contenders)
    model = Model(
        encoder, contest.fits[winner].content, classes, info, candidate=winner, training_keys=_keys(train, validation)
    )
    model, calibration_losses = _calibrate(model, train, validation, options)
    profile = _profile(model, columns, train, validation)
    model = replace(model, info=replace(info, profile=profile))
    metrics, tables = evaluate(model, parts, segments, options.seed, options.positive)
    test = parts["test"]
    return Development(
        model=model,
        winner=winner,
        params=contest.fits[winner].params,
        chosen=contest.params,
        curve=contest.fits[winner].curve,
        single_features=single_features,
        verdicts=verdicts,
        trials=tuple(contest.trials),
        candidates=contest.losses,
        calibration_losses=calibration_losses,
        metrics=metrics,
        tables=tables,
        expected=Expectation.of(row_losses(model.probabilities(test.table), test.y), test.entities),
    )


def _fit_contenders(
    parts: Mapping[str, Examples],
    encoder: Encoder,
    classes: tuple[str, ...],
    options: Options,
    storage: str | None,
    on_trial: Callable[[Trial], None] | None,
) -> _Contest:
    """Fit the contenders, and the candidates that are always reported, each with its best settings."""
    train = parts["train"]
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
    contest = _Contest()
    for name in dict.fromkeys([*options.contenders, *ALWAYS_REPORTED]):
        kind = candidate(name)
        params = {**kind.defaults(context), **options.fixed.get(name, {})}
        if name in options.contenders and options.budget.trials and params and name not in options.fixed:
            folds = rolling_folds(x["train"], train.days, options.search_folds) or [(x["train"], x["validation"])]
            params, trials = search(kind, folds, context, options.budget, storage=storage, on_trial=on_trial)
            contest.trials += trials
        fitted = kind.fit(params, x["train"], x["validation"], context)
        raw = kind.load(fitted.content).predict(x["validation"].x)
        losses = row_losses(_corrected(raw, train.y, classes, options, name), x["validation"].y)
        contest.params[name], contest.fits[name], contest.losses[name] = params, fitted, float(losses.mean())
    return contest


def _calibrate(model: Model, train: Examples, validation: Examples, options: Options) -> tuple[Model, dict[str, float]]:
    """Calibrate the probabilities and set how the class is chosen; return the losses of each calibration too."""
    raw = model.raw_probabilities(validation.table)
    ratio = _prior_ratio(train.y, model.classes, options)
    calibration, losses = calibrating.choose(raw, validation.y, seed=options.seed, prior_ratio=ratio)
    weights = (1.0,) * len(model.classes)
    if options.decision == "macro_f1":
        weights = decision.tune(calibration.apply(raw), validation.y)
    return replace(model, calibration=calibration, weights=weights, costs=options.costs), losses


def _profile(model: Model, columns: tuple[FeatureColumn, ...], train: Examples, validation: Examples) -> ModelProfile:
    """Profile of the features of the training examples, of the predictions on newer ones, and of the newest rows."""
    profile = Profile(bins_of(columns, train.table), len(model.classes))
    profile.add_features(train.table)
    prediction = model.predict(validation.table)
    profile.add_predictions(prediction.predicted, prediction.confidence)
    return profile.of_model(model.info.profile.recent)


def _keys(*parts: Examples) -> bytes:
    known = [row_keys(part.entities, part.days) for part in parts if part.days is not None]
    return pack_keys(np.concatenate(known)) if known else b""


def _refuse_hopeless(parts: Mapping[str, Examples], classes: tuple[str, ...]) -> None:
    for name, part in parts.items():
        if not len(part.y):
            raise DataError(f"train: the {name} part is empty; there are too few examples to divide")
    present = np.bincount(parts["train"].y, minlength=len(classes)) > 0
    if present.sum() < 2:
        only = classes[int(present.argmax())]
        raise DataError(f"train: every training row has the same target, {only}, so no model can be fitted")


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
