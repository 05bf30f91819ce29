"""LightGBM on integer codes. The library is optional; only fitting or loading a model imports it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from apex_ml.core.candidates.interface import Candidate, FitContext, Fitted, Part, Scorer, Watch
from apex_ml.errors import DataError

if TYPE_CHECKING:
    import optuna

ROUNDS = 400


class _Trees:
    def __init__(self, content: bytes) -> None:
        import lightgbm as lgb

        self._booster = lgb.Booster(model_str=content.decode())

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Probability of each class."""
        return np.asarray(self._booster.predict(x), np.float32)


def _watched(watch: Watch) -> Callable[[Any], None]:
    """Ends the training with its best round when the time for it is over."""
    best: tuple[float, int] = (float("inf"), 0)

    def after_round(env: Any) -> None:
        import lightgbm as lgb

        nonlocal best
        loss = float(env.evaluation_result_list[-1][2])
        best = min(best, (loss, env.iteration))
        if watch(env.iteration, loss):
            raise lgb.callback.EarlyStopException(best[1], env.evaluation_result_list)

    return after_round


class LightGBMTrees(Candidate):
    """Gradient-boosted trees grown leaf by leaf."""

    name = "lightgbm"
    file = "lightgbm.txt"
    requirements = ("lightgbm>=4.6",)
    in_image = False

    def defaults(self, context: FitContext) -> dict[str, Any]:
        """Small trees."""
        return {"num_leaves": 15, "learning_rate": 0.1, "min_child_samples": 50, "reg_lambda": 5.0}

    def suggest(self, trial: optuna.Trial) -> dict[str, Any]:
        """Draw parameters."""
        return {
            "num_leaves": trial.suggest_int("num_leaves", 4, 63),
            "learning_rate": trial.suggest_float("learning_rate", 0.03, 0.3, log=True),
            "min_child_samples": trial.suggest_int("min_child_samples", 5, 500, log=True),
            "reg_lambda": trial.suggest_float("reg_lambda", 0.5, 50.0, log=True),
        }

    def fit(self, params: Mapping[str, Any], train: Part, validation: Part, context: FitContext) -> Fitted:
        """Train with early stopping on the validation part. Raises DataError when the training target is constant."""
        import lightgbm as lgb

        if len(np.unique(train.y)) < 2:
            raise DataError("train: every training row has the same target, so no model can be fitted")
        settings = {
            "objective": "multiclass",
            "num_class": len(context.classes),
            "seed": context.seed,
            "num_threads": context.threads,
            "deterministic": True,
            "force_row_wise": True,
            "verbose": -1,
            **params,
        }
        curve: dict[str, dict[str, list[float]]] = {}
        callbacks = [lgb.record_evaluation(curve)]
        if context.early_stopping_rounds:
            callbacks.append(lgb.early_stopping(context.early_stopping_rounds, verbose=False))
        if context.report is not None:
            report = context.report
            callbacks.append(lambda env: report(env.iteration, float(env.evaluation_result_list[-1][2])))
        if context.watch is not None:
            callbacks.append(_watched(context.watch))
        data = lgb.Dataset(train.x, train.y)
        valid = data.create_valid(validation.x, validation.y)
        booster = lgb.train(
            settings, data, ROUNDS, valid_sets=[data, valid], valid_names=["train", "validation"], callbacks=callbacks
        )
        best = booster.best_iteration or booster.num_trees() // len(context.classes)
        content = booster.model_to_string(num_iteration=best).encode()
        losses = {part: list(values["multi_logloss"]) for part, values in curve.items()}
        return Fitted(content, {**params, "best_round": best - 1}, losses)

    def load(self, content: bytes) -> Scorer:
        """Read the trees."""
        return _Trees(content)


CANDIDATE = LightGBMTrees()
