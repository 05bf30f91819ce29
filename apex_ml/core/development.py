"""Develop a model from three parts of examples. Pure: tables in, model and metrics out.

Selection, search, early stopping, calibration and decision weights use training and validation only. The test part is
scored once, at the end. Nothing is fitted on it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from apex_ml.contract.feature_column import FeatureColumn
from apex_ml.core import calibration as calibrating
from apex_ml.core import decision
from apex_ml.core.contest import MIN_ENTITIES_A_FEATURE, Contest, Entrants, prior_ratio, run_contest
from apex_ml.core.degradation import Expectation
from apex_ml.core.development_options import Options as Options
from apex_ml.core.estimator import Encoder, Model
from apex_ml.core.evaluation import row_losses
from apex_ml.core.examples import Examples
from apex_ml.core.leakage import SingleFeature, refuse_leaks, single_feature_gains
from apex_ml.core.model_evaluation import Tables, evaluate
from apex_ml.core.model_info import ModelInfo
from apex_ml.core.profile import ModelProfile, Profile, bins_of
from apex_ml.core.search import Trial
from apex_ml.core.selection import FeatureVerdict, NoiseTest, beats_noise, rows_to_test
from apex_ml.core.share_shift import do_shares_last
from apex_ml.core.text_columns import refuse_text
from apex_ml.core.training_keys import pack_keys, row_keys
from apex_ml.core.training_time import SELECTION_SHARE, TrainingTime
from apex_ml.errors import ConfigError, DataError


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
    spent: TrainingTime | None = None,
) -> Development:
    """Develop a model from the parts ``train``, ``validation`` and ``test``.

    `segments` are columns of the test table; the loss is reported for each of their values. `on_trial` gets each trial
    of the search. Raises :class:`~apex_ml.errors.DataError` when a part is empty, the target is constant, no feature
    is left, one is free text or leaks the target; :class:`~apex_ml.errors.ConfigError` without `columns`.
    """
    _refuse_hopeless(parts, columns, classes)
    train, validation = parts["train"], parts["validation"]
    every = Encoder.fit(columns, train.table)
    entrants = Entrants.of(parts, every, classes, options, spent or TrainingTime())
    fit, held_out = ((part.x, part.y) for part in (entrants.train, entrants.validation))
    single_features = single_feature_gains(every.names, fit, held_out, len(classes))
    if options.suspicious_gain is not None:
        refuse_leaks(single_features, options.suspicious_gain)
    encoder, verdicts, contest = _choose(entrants, every, len(np.unique(train.entities)), storage, on_trial)
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


def _choose(
    entrants: Entrants, every: Encoder, entities: int, storage: str | None, on_trial: Callable[[Trial], None] | None
) -> tuple[Encoder, tuple[FeatureVerdict, ...], Contest]:
    """Select features and hold the contest with them, or with other ones where those are clearly better.

    These are all features, where leaving some out costs too much, and those without the history of few `entities`.
    """
    options = entrants.options
    if options.features is not None:
        encoder = Encoder(tuple(column for column in every.columns if column.name in options.features))
        return encoder, (), run_contest(entrants.with_features(encoder.columns), storage=storage, on_trial=on_trial)
    encoder, verdicts = _select(every, entrants)
    contest = run_contest(entrants.with_features(encoder.columns), storage=storage, on_trial=on_trial)
    if options.rules is None and encoder != every:
        whole = contest.with_all_features(entrants)
        if whole is not None:
            encoder, verdicts, contest = every, tuple(map(_kept_for_all, verdicts)), whole
    own = Encoder(tuple(column for column in encoder.columns if column.name not in options.of_entity))
    history = len(encoder.columns) - len(own.columns)
    if options.selection == "noise" and own.columns and entities < MIN_ENTITIES_A_FEATURE * history:
        without = contest.without_history(entrants.with_features(own.columns))
        if without is not None:
            return own, tuple(_left_out(v, options.of_entity, entities) for v in verdicts), without
    return encoder, verdicts, contest


def _calibrate(model: Model, train: Examples, validation: Examples, options: Options) -> tuple[Model, dict[str, float]]:
    """Calibrate the probabilities and set how the class is chosen; return the losses of each calibration too."""
    raw = model.raw_probabilities(validation.table)
    ratio = prior_ratio(train.y, model.classes, options)
    lasting = do_shares_last(train, validation, len(model.classes))
    calibration, losses = calibrating.choose(
        raw, validation.y, seed=options.seed, prior_ratio=ratio, shares_last=lasting
    )
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


def _refuse_hopeless(
    parts: Mapping[str, Examples], columns: tuple[FeatureColumn, ...], classes: tuple[str, ...]
) -> None:
    if not columns:
        raise ConfigError(
            "train: the contract declares no feature: name some under features: attributes, calendar or history"
        )
    for name, part in parts.items():
        if not len(part.y):
            raise DataError(f"train: the {name} part is empty; there are too few examples to divide")
    present = np.bincount(parts["train"].y, minlength=len(classes)) > 0
    if present.sum() < 2:
        only = classes[int(present.argmax())]
        raise DataError(f"train: every training row has the same target, {only}, so no model can be fitted")
    refuse_text(columns, parts["train"].table)


def _select(encoder: Encoder, entrants: Entrants) -> tuple[Encoder, tuple[FeatureVerdict, ...]]:
    options, spent = entrants.options, entrants.spent
    train, validation = entrants.train, entrants.validation
    if options.rules is not None:
        verdicts = options.rules(encoder.columns, train.x)
    elif options.selection == "none":
        return encoder, ()
    else:
        classes = len(entrants.context.classes)
        rows = rows_to_test(len(encoder.names), classes)
        noise_test = NoiseTest(rows=rows, seed=options.seed, threads=options.threads)
        seconds, begun = SELECTION_SHARE * spent.left, spent.clock()
        verdicts = beats_noise(
            encoder.names,
            (train.x, train.y),
            (validation.x, validation.y),
            classes,
            noise_test,
            lambda: spent.is_over(seconds, begun),
        )
    kept = {v.name for v in verdicts if v.kept}
    if not kept:
        raise DataError("train: no feature is left: " + "; ".join(f"{v.name}: {v.reason}" for v in verdicts))
    return Encoder(tuple(c for c in encoder.columns if c.name in kept)), verdicts


def _kept_for_all(verdict: FeatureVerdict) -> FeatureVerdict:
    """The verdict where all features together predict clearly better than those that pass."""
    if verdict.kept:
        return verdict
    reason = f"{verdict.reason}; kept: with all features the validation loss is clearly lower"
    return replace(verdict, kept=True, reason=reason)


def _left_out(verdict: FeatureVerdict, of_entity: frozenset[str], entities: int) -> FeatureVerdict:
    """The verdict where the validation loss is clearly lower without the history of few entities."""
    if not verdict.kept or verdict.name not in of_entity:
        return verdict
    reason = f"{verdict.reason}; left out: without the history of {entities} entities the validation loss is lower"
    return replace(verdict, kept=False, reason=reason)
