"""The stream from features to scores, one record batch at a time, with the statistics of the drop."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import date, datetime, timedelta

import numpy as np
import pyarrow as pa

from apex_ml.adapters.duckdb import engine
from apex_ml.contract.encoded_names import probability_columns
from apex_ml.contract.model import Contract
from apex_ml.contract.names import ROW_NR
from apex_ml.contract.roles import STORED_ROLES
from apex_ml.contract.time_units import EPOCH
from apex_ml.core.estimator import Prediction
from apex_ml.core.features import finish
from apex_ml.core.profile import Profile
from apex_ml.core.row_time import days_of
from apex_ml.services.scorer import Scorer

BATCH_ROWS = 65_536
MAX_DAYS_AHEAD = 60
"""A row dated more days after the history snapshot gets a warning: its date is wrong, or the history is old."""


class Tally:
    """The statistics of the batches. It keeps 5 bytes a row, for exact medians."""

    def __init__(self, size: int, profile: Profile) -> None:
        self.profile = profile
        self.rows = 0
        self.days = 0
        """Sum of the rows' dates, in days since 1970-01-01."""
        self.newest: date | None = None
        """The latest date of all rows."""
        self.far_ahead = 0
        """Rows dated more than MAX_DAYS_AHEAD after the history snapshot."""
        self.predict_seconds = 0.0
        self.features_seconds = 0.0
        self.row_us: list[tuple[float, int]] = []
        self._confidences = np.empty(size, np.float32)
        self._predicted = np.empty(size, np.int8)

    def add(self, seconds: float, features: pa.Table, days: int, prediction: Prediction) -> None:
        """Count one batch: its features, the sum of its dates, its predictions, and the seconds that they took."""
        n = len(prediction.predicted)
        if self.rows + n <= len(self._predicted):  # else the caller, who compares the numbers, refuses the file
            self._confidences[self.rows : self.rows + n] = prediction.confidence
            self._predicted[self.rows : self.rows + n] = prediction.predicted
        self.profile.add_features(features)
        self.profile.add_predictions(prediction.predicted, prediction.confidence)
        self.days += days
        self.rows += n
        self.predict_seconds += seconds
        self.row_us.append((seconds * 1e6 / max(n, 1), n))

    def add_dates(self, days: np.ndarray, as_of: date) -> None:
        """Count the dates of one batch, in days since 1970-01-01, that are far after the history snapshot."""
        if not len(days):
            return
        newest = EPOCH + timedelta(days=int(days.max()))
        self.newest = newest if self.newest is None else max(self.newest, newest)
        limit = as_of + timedelta(days=MAX_DAYS_AHEAD)
        if newest > limit:
            self.far_ahead += int((days > (limit - EPOCH).days).sum())

    def confidence(self, of_class: int | None = None) -> tuple[int, float, float]:
        """Rows, mean and median confidence of all, or of a predicted class; NaN where there is no row."""
        chosen = self._confidences if of_class is None else self._confidences[self._predicted == of_class]
        if not len(chosen):
            return 0, float("nan"), float("nan")
        return len(chosen), float(chosen.mean(dtype=np.float64)), float(np.median(chosen))


def scored_schema(contract: Contract, classes: Sequence[str]) -> pa.Schema:
    """Columns of the scored rows, as they are copied to Postgres, with the probabilities of a model's classes.

    `contract` is the present one. The probability of a class that it has and the model lacks is null in the table.
    """
    fields = [pa.field("run_id", pa.int64()), pa.field(ROW_NR, pa.int64())]
    fields += [pa.field(n, contract.columns[n].arrow_type) for n in contract.named(*STORED_ROLES)]
    fields.append(pa.field("predicted", pa.string()))
    fields += [pa.field(name, pa.float32()) for name in probability_columns(classes).values()]
    fields += [pa.field("confidence", pa.float32()), pa.field("model_version", pa.int32())]
    return pa.schema([*fields, pa.field("scored_at", pa.timestamp("us", "UTC"))])


def score_batches(
    con: engine.StrictConnection,
    query: str,
    scorer: Scorer,
    run_id: int,
    scored_at: datetime,
    tally: Tally,
    name: str,
) -> Iterator[pa.RecordBatch]:
    """Stream the drop through features and model, one record batch at a time. `query` is SQL of its rows."""
    contract = scorer.contract
    stored = scorer.context.contract  # it may have gained columns since the training
    schema = scored_schema(stored, scorer.model.classes)
    classes = pa.array(scorer.model.classes)
    with engine.errors_name(name):
        reader = con.sql(query).to_arrow_reader(BATCH_ROWS)
        while True:
            begun = time.monotonic()
            try:
                batch = reader.read_next_batch()
            except StopIteration:
                tally.features_seconds += time.monotonic() - begun
                return
            table = pa.Table.from_batches([batch])
            features = finish(contract, table, scorer.features)
            featured = time.monotonic()
            tally.features_seconds += featured - begun
            prediction = scorer.model.predict(features)
            days = 0
            if contract.has_timestamp:
                of_rows = days_of(contract, table)
                tally.add_dates(of_rows, scorer.as_of)
                days = int(of_rows.sum())
            tally.add(time.monotonic() - featured, features, days, prediction)
            p, n = prediction.probabilities, table.num_rows
            columns = [pa.array(np.full(n, run_id)), table.column(ROW_NR).cast(pa.int64()).combine_chunks()]
            columns += [
                table.column(name).combine_chunks().cast(stored.columns[name].arrow_type)
                for name in stored.named(*STORED_ROLES)
            ]
            columns += [
                classes.take(pa.array(prediction.predicted)),
                *(pa.array(np.ascontiguousarray(p[:, k])) for k in range(p.shape[1])),
            ]
            columns += [pa.array(prediction.confidence), pa.array(np.full(n, scorer.version.version, np.int32))]
            columns.append(pa.array([scored_at], pa.timestamp("us", "UTC")).take(pa.array(np.zeros(n, np.int8))))
            yield pa.RecordBatch.from_arrays(columns, schema=schema)
