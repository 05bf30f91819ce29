"""XGBoost, multi:softprob on integer codes: the candidate that usually wins."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xgboost as xgb
from sklearn.utils.class_weight import compute_sample_weight

from apex_ml.core.candidates.interface import Candidate, FitContext, Fitted, Part, Scorer, Watch
from apex_ml.errors import DataError

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True)
class TrainingSettings:
    """Training parameters of a booster. `rounds` is the maximum; early stopping may end the training before."""

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


class _Watched(xgb.callback.TrainingCallback):  # type: ignore[misc]
    """Ends the training when the time for it is over. What the rounds until then have found counts."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
        """Show the progress; True ends the training."""
        return self._watch(epoch, float(evals_log["validation"]["mlogloss"][-1]))


class _Reporting(xgb.callback.TrainingCallback):  # type: ignore[misc]
    """Reports the validation log loss after every round."""

    def __init__(self, report: Callable[[int, float], None]) -> None:
        self._report = report

    def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
        """Report and continue the training."""
        self._report(epoch, float(evals_log["validation"]["mlogloss"][-1]))
        return False


def fit_xgboost(
    train: tuple[np.ndarray, np.ndarray],
    validation: tuple[np.ndarray, np.ndarray],
    classes: int,
    settings: TrainingSettings,
    report: Callable[[int, float], None] | None = None,
    *,
    watch: Watch | None = None,
    feature_types: Sequence[str] | None = None,
) -> Trained:
    """Train multi:softprob on codes. Each part is (matrix (n, f), class indexes (n,)).

    `report` gets (round, validation log loss) after every round and may raise to stop a poor trial. With it the curve
    has no training loss. `watch` gets the same and ends the training when it returns True. `feature_types` are those of
    XGBoost: q for a number, c for a column whose codes are categories.
    Raises :class:`~apex_ml.errors.DataError` when a part is empty or the target is constant.
    """
    (x, y), (xv, yv) = train, validation
    if not len(y) or not len(yv):
        raise DataError(f"train: {len(y)} training and {len(yv)} validation rows; both parts need at least one")
    if len(np.unique(y)) < 2:
        raise DataError("train: every training row has the same target, so no model can be fitted")
    weights = compute_sample_weight("balanced", y) if settings.class_weights == "balanced" else None
    types = {"feature_types": list(feature_types), "enable_categorical": True} if feature_types else {}
    dtrain = xgb.QuantileDMatrix(x, y, weight=weights, nthread=settings.threads, **types)
    dvalidation = xgb.QuantileDMatrix(xv, yv, ref=dtrain, nthread=settings.threads, **types)
    curve: dict[str, dict[str, list[float]]] = {}
    booster = xgb.train(
        _parameters(classes, settings),
        dtrain,
        num_boost_round=settings.rounds,
        # a search does not use the training loss, and computing it takes a fifth of the time
        evals=[(dvalidation, "validation")] if report else [(dtrain, "train"), (dvalidation, "validation")],
        early_stopping_rounds=settings.early_stopping_rounds or None,
        evals_result=curve,
        verbose_eval=False,
        callbacks=[*([_Reporting(report)] if report else []), *([_Watched(watch)] if watch else [])] or None,
    )
    # a fit that is out of time after its first round ends before early stopping has named a best one
    named = booster.attr("best_iteration") if settings.early_stopping_rounds else None
    best = booster.num_boosted_rounds() - 1 if named is None else int(named)
    best_booster = booster[: best + 1]
    return Trained(
        booster=bytes(best_booster.save_raw("ubj")),
        best_round=best,
        validation_log_loss=float(curve["validation"]["mlogloss"][best]),
        curve={part: values["mlogloss"] for part, values in curve.items()},
    )


def _parameters(classes: int, settings: TrainingSettings) -> dict[str, Any]:
    """XGBoost's own names and values."""
    return {
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


def training_settings(params: Mapping[str, Any], context: FitContext) -> TrainingSettings:
    """The parameters of a candidate with what holds for every fit."""
    settings = TrainingSettings(
        early_stopping_rounds=context.early_stopping_rounds,
        class_weights=context.class_weights,
        device=context.device,
        seed=context.seed,
        threads=context.threads,
    )
    return replace(settings, **params)


SMALL_ROWS = 2048
"""Up to this number of rows one thread is faster than several."""


class _Booster:
    """Scores codes with a booster."""

    def __init__(self, content: bytes) -> None:
        self._booster = xgb.Booster(model_file=bytearray(content))
        self._for_small = xgb.Booster({"nthread": 1}, model_file=bytearray(content))

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Probability of each class, float32, shape (n, k)."""
        p: np.ndarray = (self._for_small if len(x) <= SMALL_ROWS else self._booster).inplace_predict(x)
        return p

    def contributions(self, x: np.ndarray) -> np.ndarray:
        """XGBoost's own SHAP values (Lundberg et al., Consistent Individualized Feature Attribution, 2018)."""
        contributions: np.ndarray = self._booster.predict(xgb.DMatrix(x), pred_contribs=True, strict_shape=True)
        return contributions[:, :, :-1]


SEARCHED = ("max_depth", "learning_rate", "min_child_weight", "subsample", "colsample_bytree", "reg_lambda")


class XGBoostTrees(Candidate):
    """Gradient-boosted trees."""

    name = "xgboost"
    file = "booster.ubj"
    requirements = ("xgboost",)

    def defaults(self, context: FitContext) -> dict[str, Any]:
        """Parameters that a search tries first."""
        return {name: getattr(TrainingSettings(), name) for name in SEARCHED}

    def suggest(self, trial: optuna.Trial) -> dict[str, Any]:
        """Draw parameters."""
        return {
            "max_depth": trial.suggest_int("max_depth", 2, 6),
            "learning_rate": trial.suggest_float("learning_rate", 0.03, 0.3, log=True),
            "min_child_weight": trial.suggest_float("min_child_weight", 1.0, 200.0, log=True),
            "subsample": trial.suggest_float("subsample", 0.5, 1.0),
            "colsample_bytree": trial.suggest_float("colsample_bytree", 0.4, 1.0),
            "reg_lambda": trial.suggest_float("reg_lambda", 0.5, 50.0, log=True),
        }

    def fit(self, params: Mapping[str, Any], train: Part, validation: Part, context: FitContext) -> Fitted:
        """Train with early stopping on the validation part."""
        settings = training_settings(params, context)
        trained = fit_xgboost(
            (train.x, train.y),
            (validation.x, validation.y),
            len(context.classes),
            settings,
            context.report,
            watch=context.watch,
        )
        return Fitted(trained.booster, {**asdict(settings), "best_round": trained.best_round}, trained.curve)

    def load(self, content: bytes) -> Scorer:
        """Read a booster."""
        return _Booster(content)


CANDIDATE = XGBoostTrees()
