"""Hyper-parameter search on the validation log loss, by Optuna's tree-structured Parzen estimator with pruning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import optuna

from apex_ml.core.candidates.interface import Candidate, FitContext, Part
from apex_ml.core.evaluation import row_losses


@dataclass(frozen=True)
class Trial:
    """One trial; `value` is its validation log loss, None when it was pruned."""

    number: int
    value: float | None
    params: Mapping[str, Any]
    seconds: float


@dataclass(frozen=True)
class Budget:
    """Limits of the search: trials and, if not 0, seconds. With a time limit the result depends on the machine."""

    trials: int
    seconds: float = 0.0


def search(
    candidate: Candidate,
    folds: list[tuple[Part, Part]],
    context: FitContext,
    budget: Budget,
    *,
    storage: str | None = None,
    on_trial: Callable[[Trial], None] | None = None,
) -> tuple[dict[str, Any], list[Trial]]:
    """Try parameters of a candidate, its defaults first, and return the best ones and all trials.

    Each pair of `folds` is (train, validation), and a trial's value is the mean over them. One pair is usual; several
    are a rolling-origin cross-validation. Deterministic for the context's seed when nothing interrupts it. With
    `storage`, a URL of a database, an interrupted search continues where it stopped.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        direction="minimize",
        sampler=optuna.samplers.TPESampler(seed=context.seed),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=15, interval_steps=5),
    )
    # the study runs in memory, because pruning reports every round; finished trials alone are written to the database
    stored = (
        optuna.create_study(study_name=candidate.name, storage=storage, load_if_exists=True, direction="minimize")
        if storage
        else None
    )
    if stored is not None:
        study.add_trials(t for t in stored.get_trials() if t.state.is_finished())
    defaults = candidate.defaults(context)
    if not study.trials:
        for preset in candidate.presets(context):
            study.enqueue_trial(preset)

    def finish(_: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        if stored is not None:
            stored.add_trial(trial)
        if on_trial is not None:
            on_trial(_trial(trial))

    done = sum(t.state.is_finished() for t in study.trials)
    if done < budget.trials:
        study.optimize(
            _objective(candidate, folds, context),
            n_trials=budget.trials - done,
            timeout=budget.seconds or None,
            callbacks=[finish],
        )
    trials = [_trial(t) for t in study.trials if t.state.is_finished()]
    best = {**defaults, **study.best_params} if any(t.value is not None for t in trials) else defaults
    return best, trials


def _objective(
    candidate: Candidate, folds: list[tuple[Part, Part]], context: FitContext
) -> Callable[[optuna.Trial], float]:
    """The mean log loss over the folds, of the settings that a trial suggests."""

    def objective(trial: optuna.Trial) -> float:
        params = candidate.suggest(trial) or {}
        losses: list[float] = []
        for number, (train, validation) in enumerate(folds):

            def report(step: int, value: float, first: bool = number == 0) -> None:
                if first:  # later folds would report the same steps again
                    trial.report(value, step)
                    if trial.should_prune():
                        raise optuna.TrialPruned

            fitted = candidate.fit(params, train, validation, replace(context, report=report))
            p = candidate.load(fitted.content).predict(validation.x)
            losses.append(float(row_losses(p, validation.y).mean()))
        return float(np.mean(losses))

    return objective


def _trial(trial: optuna.trial.FrozenTrial) -> Trial:
    complete = trial.state == optuna.trial.TrialState.COMPLETE
    seconds = trial.duration.total_seconds() if trial.duration else 0.0
    return Trial(trial.number, trial.value if complete else None, dict(trial.params), seconds)
