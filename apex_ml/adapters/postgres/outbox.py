"""The outbox: scoring runs whose statistics MLflow has yet to receive, and the statistics themselves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from typing_extensions import override

from apex_ml.adapters.postgres.connection import PsycopgSession, autocommitted
from apex_ml.adapters.postgres.session import SECOND_KEY
from apex_ml.settings import Settings
from apex_ml.sql.tables import SCORED

OUTBOX_LOCK = 7_261_004
"""First key of the advisory lock of a schema under which one process at a time sends."""
_RUN = (
    "r.run_id, r.step_run, r.model_name, r.model_version, r.mlflow_run_id, r.feature_snapshot, r.rows_in,"
    " r.rows_scored, r.rows_quarantined, r.ms_total, r.ms_check, r.ms_features, r.ms_predict, r.ms_write,"
    " r.row_us_mean, r.row_us_p50, r.row_us_p95, r.row_us_p99, r.confidence_mean, r.confidence_median, r.started_at,"
    " r.finished_at, d.name, d.sha256, o.origin"
)


@dataclass(frozen=True)
class OutboxRun:
    """A scoring run as MLflow receives it; `origin` is the address of its Airflow run."""

    run_id: int
    step_run: str
    model_name: str
    model_version: int
    mlflow_run_id: str
    feature_snapshot: str
    rows_in: int
    rows_scored: int
    rows_quarantined: int
    ms_total: float
    ms_check: float
    ms_features: float
    ms_predict: float
    ms_write: float
    row_us_mean: float | None
    row_us_p50: float | None
    row_us_p95: float | None
    row_us_p99: float | None
    confidence_mean: float | None
    confidence_median: float | None
    started_at: datetime
    finished_at: datetime
    drop_name: str
    drop_sha256: str
    origin: str


@dataclass(frozen=True)
class ClassTotal:
    """Rows of a predicted class over some runs, and their mean confidence."""

    rows: int
    mean_confidence: float | None


class Outbox(Protocol):
    """The outbox, by batch: the drops of one call of the step. Each change is committed by itself."""

    def unsent_batches(self) -> list[str]:
        """The batches that MLflow has not received, oldest first."""
        ...

    def runs(self, batch: str) -> list[OutboxRun]:
        """All scoring runs of a batch, those that were sent before included."""
        ...

    def run_rows(self, run_ids: Sequence[int]) -> list[dict[str, Any]]:
        """All columns of scoring runs, with the name and sha256 of their drop, for JSON."""
        ...

    def mark_sent(self, run_ids: Sequence[int], mlflow_run_id: str) -> None:
        """Note that MLflow has received scoring runs."""

    def note_failure(self, batch: str, error: str) -> None:
        """Note why a batch could not be sent."""

    def class_totals(self, run_ids: Sequence[int]) -> dict[str, ClassTotal]:
        """Rows and confidence by predicted class."""
        ...

    def first_rows(self, run_ids: Sequence[int], limit: int) -> list[dict[str, Any]]:
        """The first scored rows, for JSON."""
        ...

    def confidence_histogram(self, run_ids: Sequence[int], buckets: int) -> list[tuple[str, int, int]]:
        """Predicted class, bucket of equal width from 0, and number of rows."""
        ...

    def outcomes(self, run_ids: Sequence[int]) -> list[tuple[str, str, int]]:
        """Predicted class, observed class and number of rows."""
        ...


class PostgresOutbox(Outbox):
    """The outbox in the table mlflow_outbox."""

    def __init__(self, session: PsycopgSession) -> None:
        self._session = session

    @override
    def unsent_batches(self) -> list[str]:
        rows = self._session.fetch(
            "SELECT batch FROM mlflow_outbox WHERE sent_at IS NULL GROUP BY batch ORDER BY min(run_id)"
        )
        return [batch for (batch,) in rows]

    @override
    def runs(self, batch: str) -> list[OutboxRun]:
        rows = self._session.fetch(
            f"SELECT {_RUN} FROM mlflow_outbox AS o JOIN scoring_runs AS r USING (run_id)"
            " JOIN drops AS d USING (drop_id) WHERE o.batch = %s ORDER BY r.run_id",
            (batch,),
        )
        return [OutboxRun(*row) for row in rows]

    @override
    def run_rows(self, run_ids: Sequence[int]) -> list[dict[str, Any]]:
        return self._session.fetch_dicts(
            "SELECT r.*, d.name AS drop_name, d.sha256 AS drop_sha256 FROM scoring_runs AS r"
            " JOIN drops AS d USING (drop_id) WHERE r.run_id = ANY(%s) ORDER BY r.run_id",
            (list(run_ids),),
        )

    @override
    def mark_sent(self, run_ids: Sequence[int], mlflow_run_id: str) -> None:
        self._session.execute(
            "UPDATE mlflow_outbox SET sent_at = now(), mlflow_run_id = %s, last_error = NULL WHERE run_id = ANY(%s)",
            (mlflow_run_id, list(run_ids)),
        )

    @override
    def note_failure(self, batch: str, error: str) -> None:
        self._session.execute(
            "UPDATE mlflow_outbox SET attempts = attempts + 1, last_error = %s WHERE batch = %s AND sent_at IS NULL",
            (error, batch),
        )

    @override
    def class_totals(self, run_ids: Sequence[int]) -> dict[str, ClassTotal]:
        rows = self._session.fetch(
            "SELECT predicted, sum(rows)::bigint, sum(rows * mean_confidence) / nullif(sum(rows), 0)"
            " FROM scoring_run_classes WHERE run_id = ANY(%s) GROUP BY 1 ORDER BY 1",
            (list(run_ids),),
        )
        return {predicted: ClassTotal(count, confidence) for predicted, count, confidence in rows}

    @override
    def first_rows(self, run_ids: Sequence[int], limit: int) -> list[dict[str, Any]]:
        return self._session.fetch_dicts(
            f"SELECT * FROM {SCORED} WHERE run_id = ANY(%s) ORDER BY run_id, row_nr LIMIT %s", (list(run_ids), limit)
        )

    @override
    def confidence_histogram(self, run_ids: Sequence[int], buckets: int) -> list[tuple[str, int, int]]:
        rows = self._session.fetch(
            "SELECT predicted, least(width_bucket(confidence, 0, 1, %(n)s), %(n)s) - 1, count(*)"
            f" FROM {SCORED} WHERE run_id = ANY(%(runs)s) GROUP BY 1, 2",
            {"n": buckets, "runs": list(run_ids)},
        )
        return [(predicted, bucket, n) for predicted, bucket, n in rows]

    @override
    def outcomes(self, run_ids: Sequence[int]) -> list[tuple[str, str, int]]:
        rows = self._session.fetch(
            f"SELECT s.predicted, o.observed, count(*) FROM outcomes AS o JOIN {SCORED} AS s"
            " USING (run_id, row_nr) WHERE run_id = ANY(%s) GROUP BY 1, 2 ORDER BY 1, 2",
            (list(run_ids),),
        )
        return [(predicted, observed, n) for predicted, observed, n in rows]


@contextmanager
def open_outbox(settings: Settings, schema: str) -> Iterator[Outbox | None]:
    """The outbox while this process alone may send from it; None when another process is sending."""
    with autocommitted(settings, schema) as session:
        locked = session.fetch_one(f"SELECT pg_try_advisory_lock(%s::integer, {SECOND_KEY})", (OUTBOX_LOCK,))
        yield PostgresOutbox(session) if locked == (True,) else None
