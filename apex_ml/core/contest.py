"""The contest of the candidates: each is fitted with its best parameters, and the best one on validation wins."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from apex_ml.contract.feature_column import FeatureColumn
from apex_ml.core.calibration import Calibration
from apex_ml.core.candidates import ALWAYS_REPORTED, candidate
from apex_ml.core.candidates.interface import Candidate, FitContext, Fitted, Part
from apex_ml.core.development_options import Options
from apex_ml.core.estimator import Encoder
from apex_ml.core.evaluation import class_shares, row_losses
from apex_ml.core.examples import Examples
from apex_ml.core.rolling_folds import rolling_folds
from apex_ml.core.search import Budget, Trial, search
from apex_ml.core.training_time import TrainingTime

MIN_ADVANTAGE = 1e-4
"""Nats by which a contender must beat an earlier one in the list."""
MAX_SELECTION_COST = 0.001
"""Share of the validation log loss that leaving features out may cost."""
MIN_ROWS_A_FEATURE, SMALL_PART_GAIN = 20, 0.1
"""With fewer validation rows a feature, leaving features out must lower the loss, by this share of it."""
MIN_ENTITIES_A_FEATURE = 20
"""With fewer training entities for each feature of their history, a model without them is tried, too."""
SEARCH_SHARE = 0.7
"""Share of a contender's time that its search may take; the rest is for the fit with the best parameters."""


@dataclass
class Contest:
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

    def add(self, name: str, params: Mapping[str, Any], fitted: Fitted, loss: float) -> None:
        """Keep a fit of a candidate if it is its best one so far."""
        if name not in self.losses or loss < self.losses[name] - MIN_ADVANTAGE:
            self.params[name], self.fits[name], self.losses[name] = params, fitted, loss

    def with_all_features(self, entrants: Entrants) -> Contest | None:
        """The contest with all features, where without some the winner's loss is higher by more than the maximum.

        A test of single features has too little power where rows are few, or many features each say a little.
        """
        rows, features = entrants.validation.x.shape
        # the test used the same few rows of validation, so that its selection looks better there than it is
        limit = 1 + SMALL_PART_GAIN if rows < MIN_ROWS_A_FEATURE * features else 1 / (1 + MAX_SELECTION_COST)
        return self._with(entrants, limit, " features=all")

    def without_history(self, entrants: Entrants) -> Contest | None:
        """The contest with these features, which are without the history of few entities, where that is clearly better.

        A history of few entities shows which entity it is. Trees learn that by heart, and it does not last.
        """
        return self._with(entrants, 1 - MAX_SELECTION_COST, " features=no_history")

    def _with(self, entrants: Entrants, limit: float, label: str) -> Contest | None:
        """The contest with other features, where the winner's loss with them is below this part of its present one."""
        options, spent = entrants.options, entrants.spent
        winner = self.winner(options.contenders)
        _, loss = entrants.fit(winner, self.params[winner], spent.left, label)
        if loss >= self.losses[winner] * limit:
            return None
        if self.trials:  # what a search found is not searched again
            options = replace(options, fixed=self.params, budget=Budget(0))
        other = run_contest(replace(entrants, options=options))
        return replace(other, trials=self.trials)


@dataclass(frozen=True)
class Entrants:
    """What the fits of a contest have in common. `days` are those of the training part."""

    train: Part
    validation: Part
    days: np.ndarray | None
    context: FitContext
    options: Options
    spent: TrainingTime

    @classmethod
    def of(
        cls,
        parts: Mapping[str, Examples],
        encoder: Encoder,
        classes: tuple[str, ...],
        options: Options,
        spent: TrainingTime,
    ) -> Entrants:
        """Encode the parts."""
        train, validation = (Part(encoder.encode(parts[n].table), parts[n].y) for n in ("train", "validation"))
        context = FitContext(
            classes=classes,
            columns=encoder.columns,
            seed=options.seed,
            threads=options.threads,
            device=options.device,
            class_weights=options.class_weights,
            early_stopping_rounds=options.early_stopping_rounds,
        )
        return cls(train, validation, parts["train"].days, context, options, spent)

    def with_features(self, columns: tuple[FeatureColumn, ...]) -> Entrants:
        """The same with only these features."""
        places = [self.context.columns.index(column) for column in columns]
        train, validation = (
            Part(np.ascontiguousarray(part.x[:, places]), part.y) for part in (self.train, self.validation)
        )
        return replace(self, train=train, validation=validation, context=replace(self.context, columns=columns))

    def fit(self, name: str, params: Mapping[str, Any], seconds: float, label: str = "") -> tuple[Fitted, float]:
        """Fit a candidate for at most these seconds; also its log loss on validation, corrected to the true prior."""
        kind = candidate(name)
        context = replace(self.context, watch=self.spent.watch(f"training candidate={name}{label}", seconds))
        fitted = kind.fit(params, self.train, self.validation, context)
        raw = kind.load(fitted.content).predict(self.validation.x)
        if name != "prior":
            ratio = prior_ratio(self.train.y, self.context.classes, self.options)
            raw = Calibration(prior_ratio=ratio).apply(raw)
        return fitted, float(row_losses(raw, self.validation.y).mean())


def run_contest(
    entrants: Entrants, *, storage: str | None = None, on_trial: Callable[[Trial], None] | None = None
) -> Contest:
    """Fit the contenders, and the candidates that are always reported, each with its best settings.

    The time that is left is shared among the contenders. Later presets of a candidate are left out when its time is
    over.
    """
    options, spent = entrants.options, entrants.spent
    contest = Contest()
    for place, name in enumerate(dict.fromkeys([*options.contenders, *ALWAYS_REPORTED])):
        kind = candidate(name)
        seconds = spent.left / max(1, len(options.contenders) - place)
        sets = _parameter_sets(kind, entrants)
        if name in options.contenders and options.budget.trials and sets[0] and name not in options.fixed:
            sets = [_searched(kind, entrants, contest, SEARCH_SHARE * seconds, storage, on_trial)]
            seconds *= 1 - SEARCH_SHARE
        begun = spent.clock()
        for number, params in enumerate(sets):
            if number and spent.is_over(seconds * number / len(sets), begun):
                spent.report(f"training candidate={name} presets={number} of {len(sets)}: no time for more")
                break
            label = f" preset={number + 1}/{len(sets)}" if len(sets) > 1 else ""
            contest.add(name, params, *entrants.fit(name, params, seconds / len(sets), label))
    return contest


def _parameter_sets(kind: Candidate, entrants: Entrants) -> list[dict[str, Any]]:
    """The parameters with which a candidate is fitted: the recorded ones, its presets, or its defaults."""
    options = entrants.options
    if kind.name in options.contenders and kind.name not in options.fixed:
        return list(kind.presets(entrants.context))
    return [{**kind.defaults(entrants.context), **options.fixed.get(kind.name, {})}]


def _searched(
    kind: Candidate,
    entrants: Entrants,
    contest: Contest,
    seconds: float,
    storage: str | None,
    on_trial: Callable[[Trial], None] | None,
) -> dict[str, Any]:
    """The best parameters of a search, whose trials are added to the contest."""
    options = entrants.options
    folds = rolling_folds(entrants.train, entrants.days, options.search_folds)
    budget = options.budget
    if np.isfinite(seconds):
        budget = replace(budget, seconds=max(1.0, min(budget.seconds or seconds, seconds)))
    context = replace(entrants.context, watch=entrants.spent.watch(f"search candidate={kind.name}", seconds))
    params, trials = search(
        kind,
        folds or [(entrants.train, entrants.validation)],
        context,
        budget,
        storage=storage,
        on_trial=on_trial,
    )
    contest.trials += trials
    return params


def prior_ratio(y: np.ndarray, classes: tuple[str, ...], options: Options) -> tuple[float, ...]:
    """True prior over the prior of balanced training, by class; empty where training was not weighted."""
    if options.class_weights == "none":
        return ()
    counts = np.bincount(y, minlength=len(classes))
    uniform = (counts > 0) / max(int((counts > 0).sum()), 1)
    shares = class_shares(y, len(classes))
    return tuple((shares / np.where(uniform > 0, uniform, 1)).tolist())
