"""Hyper-parameter search on the validation log loss, by Optuna's tree-structured Parzen estimator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from apex_ml.core.estimator import Trained, TrainingSettings


def search(
    fit: Callable[[TrainingSettings], Trained], base: TrainingSettings, trials: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Try `trials` settings, the base among them, and return the best changes and all trials.

    Deterministic for the base's seed. The base is tried first, so that the search never chooses something worse.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def objective(trial: optuna.Trial) -> float:
        changed = {
            "max_depth": trial.suggest_int("max_depth", 2, 6),
            "learning_rate": trial.suggest_float("learning_rate", 0.03, 0.3, log=True),
            "min_child_weight": trial.suggest_float("min_child_weight", 1.0, 200.0, log=True),
            "subsample": trial.suggest_float("subsample", 0.5, 1.0),
            "colsample_bytree": trial.suggest_float("colsample_bytree", 0.4, 1.0),
            "reg_lambda": trial.suggest_float("reg_lambda", 0.5, 50.0, log=True),
        }
        return fit(replace(base, **changed)).validation_log_loss

    study = optuna.create_study(direction="minimize", sampler=optuna.samplers.TPESampler(seed=base.seed))
    names = ("max_depth", "learning_rate", "min_child_weight", "subsample", "colsample_bytree", "reg_lambda")
    study.enqueue_trial({name: getattr(base, name) for name in names})
    study.optimize(objective, n_trials=trials)
    return dict(study.best_params), [{"value": t.value, **t.params} for t in study.trials]
