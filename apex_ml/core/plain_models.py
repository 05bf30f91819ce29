"""Models as people fit them without Apex, to compare on the same test rows: prior, logistic regression, XGBoost.

They use every feature and learn from the training and validation rows, as none of them needs a validation part.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import xgboost as xgb

from apex_ml.contract.feature_column import FeatureColumn
from apex_ml.core.binary import auc
from apex_ml.core.candidates import candidate
from apex_ml.core.candidates.interface import FitContext, Part
from apex_ml.core.decision import Costs, decide, row_costs
from apex_ml.core.estimator import Encoder
from apex_ml.core.evaluation import row_losses
from apex_ml.core.examples import Examples
from apex_ml.core.uncertainty import Clusters, bootstrap_interval

DEFAULT_ROUNDS = 100
"""The trees of each class that xgboost.XGBClassifier fits by default."""


@dataclass(frozen=True)
class PlainModel:
    """Scores of one way to make a model, on the test part.

    `gain` is how many nats of log loss the model of Apex is better, with its 95 % interval; None for that model. `auc`
    is None with more than two classes, `mean_cost` where the class is not chosen by cost.
    """

    way: str
    features: int
    log_loss: float
    accuracy: float
    gain: tuple[float, float, float] | None = None
    auc: float | None = None
    mean_cost: float | None = None


def compare_with_plain(
    parts: Mapping[str, Examples],
    columns: tuple[FeatureColumn, ...],
    classes: tuple[str, ...],
    ours: np.ndarray,
    *,
    seed: int,
    threads: int,
    costs: Costs = (),
) -> tuple[PlainModel, ...]:
    """Fit the plain models and score them beside `ours`, Apex's probabilities of the test rows, shape (n, k).

    The predicted class is the most probable one, or with `costs` the one with the lowest expected cost.
    """
    # levels that are declared but never seen make XGBoost fail: all are learned
    learned = tuple(FeatureColumn(c.name, c.kind) for c in columns)
    fitted = [parts["train"], parts["validation"]]
    encoder = Encoder.fit(learned, pa.concat_tables([part.table for part in fitted]))
    known = Part(
        np.concatenate([encoder.encode(part.table) for part in fitted]), np.concatenate([part.y for part in fitted])
    )
    test = parts["test"]
    x = encoder.encode(test.table)
    context = FitContext(classes, encoder.columns, seed=seed, threads=threads)
    fitted_models = {
        "class prior": (0, _candidate("prior", known, x, context)),
        "logistic regression": (len(columns), _candidate("logistic", known, x, context)),
        "XGBoost with defaults": (len(columns), _xgboost(known, x, context)),
    }
    losses = row_losses(ours, test.y)
    compared = []
    for way, (features, p) in fitted_models.items():
        own = row_losses(p, test.y)
        low, high = bootstrap_interval(Clusters.of(own - losses, test.entities), seed)
        predicted = decide(p, costs=costs)
        compared.append(
            PlainModel(
                way,
                features,
                float(own.mean()),
                float((predicted == test.y).mean()),
                (float((own - losses).mean()), low, high),
                auc=auc(p[:, 1], test.y == 1) if len(classes) == 2 else None,
                mean_cost=float(row_costs(test.y, predicted, costs).mean()) if costs else None,
            )
        )
    return tuple(compared)


def _candidate(name: str, known: Part, x: np.ndarray, context: FitContext) -> np.ndarray:
    kind = candidate(name)
    return kind.load(kind.fit(kind.defaults(context), known, known, context).content).predict(x)


def _xgboost(known: Part, x: np.ndarray, context: FitContext) -> np.ndarray:
    """XGBoost's own parameters and its own handling of categories; a level that is new in the test part is missing."""
    levelled = [column.kind == "categorical" for column in context.columns]
    types = ["c" if own else "q" for own in levelled]

    def matrix(codes: np.ndarray, y: np.ndarray | None = None) -> xgb.DMatrix:
        own = codes.copy()
        own[:, levelled] = np.where(codes[:, levelled] == 0, np.nan, codes[:, levelled] - 1)
        return xgb.DMatrix(own, y, feature_types=types, enable_categorical=True, nthread=context.threads)

    parameters: dict[str, Any] = {"seed": context.seed, "nthread": context.threads}
    if len(context.classes) == 2:
        booster = xgb.train(parameters | {"objective": "binary:logistic"}, matrix(known.x, known.y), DEFAULT_ROUNDS)
        second = booster.predict(matrix(x))
        return np.column_stack([1 - second, second])
    parameters |= {"objective": "multi:softprob", "num_class": len(context.classes)}
    p: np.ndarray = xgb.train(parameters, matrix(known.x, known.y), DEFAULT_ROUNDS).predict(matrix(x))
    return p
