"""Record a sample of the answers in Postgres, off the request path. A full queue drops and counts answers."""

from __future__ import annotations

import logging
import threading
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from apex_ml.adapters.postgres import online
from apex_ml.contract.time_units import EPOCH
from apex_ml.core.features import finish
from apex_ml.core.profile import Profile
from apex_ml.core.row_time import days_of
from apex_ml.errors import ApexError, ConfigError, TransientError
from apex_ml.services.run_folder import StepContext
from apex_ml.serving.metrics import PipelineMetrics
from apex_ml.serving.predictor import Predicted, Predictor

logger = logging.getLogger(__name__)
EVERY_SECONDS = 1.0
RETRY_SECONDS = 5.0


@dataclass(frozen=True)
class _Waiting:
    request_id: str
    predictor: Predictor
    predicted: Predicted
    chosen: np.ndarray
    """Places of the sampled rows, ascending."""
    answered_at: datetime


class Recorder:
    """A bounded queue and the thread that empties it. With a share of 0 it does nothing."""

    def __init__(self, context: StepContext, metrics: PipelineMetrics) -> None:
        settings = context.settings
        self._context, self._metrics = context, metrics
        self._share, self._most = context.pipeline.options.serving.record_share, settings.serving_record_queue
        self._random = np.random.default_rng()
        self._queue: deque[_Waiting] = deque()
        self._waiting = 0
        self._lock = threading.Lock()
        self._problem: str | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="record-answers", daemon=True)

    def __len__(self) -> int:
        """Number of waiting answers."""
        return self._waiting

    def problems(self) -> list[str]:
        """Why answers are not recorded."""
        return [self._problem] if self._problem else []

    def start(self) -> None:
        """Start the recording, if the share is above 0."""
        if self._share:
            self._thread.start()

    def stop(self) -> None:
        """Record the waiting answers once, and stop."""
        self._stopped.set()
        if self._share:
            self._thread.join(timeout=5)

    def offer(self, request_id: str, predictor: Predictor, predicted: Predicted) -> None:
        """Queue a sample of the answers of a request, without waiting."""
        if not self._share:
            return
        with self._lock:
            chosen = np.flatnonzero(self._random.random(len(predicted.rows)) < self._share)
            if not len(chosen):
                return
            if self._waiting + len(chosen) > self._most:
                self._metrics.dropped.inc(len(chosen))
                return
            self._waiting += len(chosen)
            self._queue.append(_Waiting(request_id, predictor, predicted, chosen, datetime.now(UTC)))

    def _run(self) -> None:
        last = False
        while not last:
            last = self._stopped.wait(EVERY_SECONDS)
            try:
                self._empty()
            except ApexError as error:
                self._problem = "recording: Postgres does not take the answers"
                logger.warning("answers_not_recorded waiting=%s reason=%s", self._waiting, error)
                self._stopped.wait(RETRY_SECONDS)
            else:
                self._problem = None

    def _empty(self) -> None:
        """Write the waiting answers, in parts by predictor and day; a written part leaves the queue."""
        while self._queue:
            first = self._queue[0]
            key = (first.predictor, first.answered_at.date())
            part: list[_Waiting] = []
            for waiting in list(self._queue):
                same = waiting.predictor is key[0] and waiting.answered_at.date() == key[1]
                if not same or len(part) == online.MAX_REQUESTS:
                    break
                part.append(waiting)
            rows = sum(len(waiting.chosen) for waiting in part)
            counter = self._metrics.recorded
            try:
                self._write(first.predictor, part)
            except (
                TransientError,
                ConfigError,
            ):  # Postgres is unavailable: the answers stay in the queue
                raise
            except Exception:  # answers that cannot be written must not block the next ones
                logger.exception("answers_dropped rows=%s", rows)
                counter = self._metrics.dropped
            with self._lock:
                for _ in part:
                    self._queue.popleft()
                self._waiting -= rows
            counter.inc(rows)

    def _write(self, predictor: Predictor, part: list[_Waiting]) -> None:
        scorer, contract = predictor.scorer, predictor.contract
        profile, days = Profile(scorer.bins, len(scorer.model.classes)), 0
        answers = []
        for waiting in part:
            chosen, predicted = waiting.chosen, waiting.predicted
            table = predicted.table.take(chosen)
            profile.add_features(finish(scorer.contract, table, scorer.features))
            profile.add_predictions(predicted.prediction.predicted[chosen], predicted.prediction.confidence[chosen])
            if contract.has_timestamp:
                days += int(days_of(contract, table).sum()) - len(chosen) * (scorer.as_of - EPOCH).days
            answers.append(
                online.Answers(
                    waiting.request_id,
                    chosen,
                    predicted.rows.columns,
                    predicted.prediction.probabilities[chosen],
                    predicted.prediction.predicted[chosen],
                    predicted.prediction.confidence[chosen],
                    predicted.known[chosen],
                    waiting.answered_at,
                )
            )
        rows = sum(len(a.places) for a in answers)
        day = part[0].answered_at.date()
        version, snapshot = predictor.version, predictor.history.sha256
        model = online.AnsweringModel(version.name, version.version, scorer.model.classes, snapshot)
        counts = profile.counts() | {"lag_days": days / rows}
        settings, schema = self._context.settings, self._context.schema
        online.record(settings, schema, contract, model, day, answers, counts)
