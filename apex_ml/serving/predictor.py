"""Predict the rows of a request with the champion, the history, and the functions that also score drops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa

from apex_ml.adapters.mlflow.registry import ModelVersion, Registry
from apex_ml.contract.model import Contract
from apex_ml.contract.requests.faults import RefusedError, early_row
from apex_ml.contract.requests.reader import Rows
from apex_ml.core.estimator import Prediction
from apex_ml.core.features import finish, row_inputs, state_needed
from apex_ml.core.row_time import integer_times
from apex_ml.services.run_folder import StepContext
from apex_ml.services.scorer import Scorer, build_scorer
from apex_ml.serving.history import History, history_bytes

MODEL_BYTES = 16 * 2**20
"""Counted for a model without its history: more than the trees of every candidate that Apex trains by default."""


@dataclass(frozen=True)
class Predicted:
    """The prediction for the rows of a request. `table` has the inputs of their features."""

    rows: Rows
    table: pa.Table
    prediction: Prediction
    known: np.ndarray
    """Whether the entity has a history, shape (n,)."""


@dataclass(frozen=True)
class Predictor:
    """A model version with a history snapshot. All answers share it until the next one is loaded."""

    scorer: Scorer
    history: History

    @property
    def version(self) -> ModelVersion:
        """The model version."""
        return self.scorer.version

    @property
    def contract(self) -> Contract:
        """The contract."""
        return self.scorer.context.contract

    def predict(self, rows: Rows) -> Predicted:
        """Predict rows.

        Raises :class:`~apex_ml.contract.requests.faults.RefusedError` with every row before the snapshot,
        because its history would contain later rows.
        """
        contract, scorer = self.scorer.contract, self.scorer
        columns: dict[str, Any] = {}
        places, times = np.full(len(rows), -1), np.zeros(len(rows), np.int64)
        if contract.has_timestamp:
            self._refuse_early(rows.columns[contract.timestamp])
            columns[contract.timestamp] = pa.array(rows.columns[contract.timestamp], contract.time_type)
            times = integer_times(columns[contract.timestamp])
        if contract.has_entity:
            places = self.history.places(rows.columns[contract.entity])
        for name in row_inputs(contract, scorer.features):
            columns[name] = pa.array(rows.columns[name], contract.columns[name].arrow_type)
        table = pa.table(columns | self.history.states(places, times, columns))
        prediction = scorer.model.predict(finish(contract, table, scorer.model.encoder.names or scorer.features))
        return Predicted(rows, table, prediction, places >= 0)

    def _refuse_early(self, days: list[date]) -> None:
        name, since = self.scorer.contract.timestamp, self.history.since
        if min(days) < since:
            raise RefusedError([early_row(place, name, day, since) for place, day in enumerate(days) if day < since])


def load_predictor(
    context: StepContext,
    registry: Registry,
    version: ModelVersion,
    admit: Callable[[int], None] = lambda _: None,
    before: Predictor | None = None,
) -> Predictor:
    """Load the predictor of a version with the newest suitable history snapshot. The history of `before` is reused.

    `admit` is called with the bytes that it will hold, before its history is read; what it raises is passed on.
    Raises as :func:`~apex_ml.services.scorer.build_scorer` does, and :class:`~apex_ml.errors.DataError` for a snapshot
    that cannot be read.
    """
    scorer = build_scorer(context, registry, version)
    needed = state_needed(scorer.contract, scorer.features)
    admit(MODEL_BYTES + history_bytes(context.contract, scorer.snapshot, needed))
    if before is not None and before.history.is_of(scorer.contract, scorer.snapshot_sha256, needed):
        return Predictor(scorer, before.history)
    history = History(scorer.contract, scorer.snapshot, scorer.snapshot_sha256, scorer.as_of, scorer.since, needed)
    return Predictor(scorer, history)
