"""Scoring runs: the statistics of each scoring of a drop, by class too."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime
from typing import Any, NamedTuple, Protocol

from typing_extensions import override

from apex_ml.adapters.postgres.session import Session
from apex_ml.errors import DataError

_CASTS = {"started_at": "::timestamptz", "finished_at": "::timestamptz", "snapshot_as_of": "::date"}


class ClassFigures(NamedTuple):
    """Rows of a predicted class and the confidence of their predictions; NaN where there is no row."""

    rows: int
    mean_confidence: float
    median_confidence: float


@dataclass(frozen=True)
class ScoringRun:
    """The statistics of one scoring of a drop, as columns of scoring_runs.

    `ms_…` are milliseconds of a phase, `row_us_…` microseconds a row over batches. NaN becomes null. `profile` is JSON
    text.
    """

    run_id: int
    drop_id: int
    step_run: str
    model_name: str
    model_version: int
    mlflow_run_id: str
    feature_snapshot: str
    snapshot_as_of: date
    rows_in: int
    rows_scored: int
    rows_quarantined: int
    success_rate: float
    row_us_mean: float
    row_us_p50: float
    row_us_p95: float
    row_us_p99: float
    confidence_mean: float
    confidence_median: float
    profile: str
    started_at: datetime
    finished_at: datetime
    ms_total: float
    ms_check: float
    ms_features: float
    ms_predict: float
    ms_write: float
    contract_identity: str | None = None
    """Identity of the contract by which the rows were checked and scored."""
    input_alert: str | None = None
    input_warning: str | None = None


class ScoringRunLedger(Protocol):
    """The scoring runs. A drop has one for each time it was scored; the latest counts."""

    def write(self, run: ScoringRun, classes: Mapping[str, ClassFigures], batch: str, origin: str = "") -> None:
        """Write the statistics of a run, and a note in the outbox that MLflow has yet to receive them.

        `batch` names the call of the step; its drops share one MLflow run. `origin` is the address of the Airflow run.
        """

    def drops_scored(self, step_run: str) -> int:
        """How many drops a run of the step has scored."""
        ...

    def facts(self, text: str) -> dict[str, str]:
        """Where a scoring run came from, all as text; `text` is its run_id, or a drop's name for its latest run.

        Raises :class:`~apex_ml.errors.DataError` when there is no such run.
        """
        ...

    def small_profiles(self, model_name: str, version: int, max_rows: int) -> list[dict[str, Any]]:
        """Profiles of a version's newest runs of the last day that scored fewer than `max_rows` rows, newest first."""
        ...

    def snapshots_in_use(self, dropped_partitions: Sequence[int]) -> set[str]:
        """History snapshots of the scored rows that stay when the partitions with these lower bounds are dropped."""
        ...

    def runs_of_drops(self, drop_ids: Sequence[int]) -> list[tuple[int, str]]:
        """The runs of some drops, each with the subject under which the drift of its day is kept."""
        ...

    def delete(self, run_ids: Sequence[int]) -> None:
        """Delete runs with their statistics."""


class PostgresScoringRuns(ScoringRunLedger):
    """The runs in the tables scoring_runs and scoring_run_classes."""

    def __init__(self, session: Session) -> None:
        self._session = session

    @override
    def write(self, run: ScoringRun, classes: Mapping[str, ClassFigures], batch: str, origin: str = "") -> None:
        # ADBC reads no null without its type, and no moment without its cast
        values = {n: v.isoformat() if isinstance(v, date) else v for n, v in asdict(run).items() if v is not None}
        marks = ", ".join(_mark(name, value) for name, value in values.items())
        self._session.execute(
            f"INSERT INTO scoring_runs ({', '.join(values)}) OVERRIDING SYSTEM VALUE VALUES ({marks})", values
        )
        self._session.execute(
            "INSERT INTO mlflow_outbox (run_id, batch, origin) VALUES (%s, %s, %s)", (run.run_id, batch, origin)
        )
        row = "(%s, %s, %s, nullif(%s, 'NaN'::float8), nullif(%s, 'NaN'::float8))"
        self._session.execute(
            "INSERT INTO scoring_run_classes (run_id, predicted, rows, mean_confidence, median_confidence)"
            f" VALUES {', '.join([row] * len(classes))}",
            [value for name, figures in classes.items() for value in (run.run_id, name, *figures)],
        )

    @override
    def drops_scored(self, step_run: str) -> int:
        row = self._session.fetch_one("SELECT count(*) FROM scoring_runs WHERE step_run = %s", (step_run,))
        return int(row[0]) if row else 0

    @override
    def facts(self, text: str) -> dict[str, str]:
        row = self._session.fetch_one(
            "SELECT r.run_id::text, d.name, d.sha256, r.model_name || ' version ' || r.model_version, r.mlflow_run_id,"
            " r.feature_snapshot, r.finished_at::text"
            " FROM scoring_runs AS r JOIN drops AS d USING (drop_id)"
            " WHERE r.run_id::text = %(text)s OR d.name = %(text)s"
            " ORDER BY r.run_id::text = %(text)s DESC, d.drop_id DESC, r.run_id DESC LIMIT 1",
            {"text": text},
        )
        if row is None:
            raise DataError(
                f"{text}: no scoring run has this id and no scored drop this name; see: apex sql -c 'TABLE"
                " drop_summary'"
            )
        keys = ("run_id", "drop", "drop_sha256", "model", "mlflow_run_id", "feature_snapshot", "finished_at")
        return {key: str(value) for key, value in zip(keys, row, strict=True)}

    @override
    def small_profiles(self, model_name: str, version: int, max_rows: int) -> list[dict[str, Any]]:
        rows = self._session.fetch(
            "SELECT profile::text FROM scoring_runs WHERE model_name = %(name)s AND model_version = %(version)s"
            " AND rows_scored > 0 AND rows_scored < %(rows)s AND profile IS NOT NULL"
            " AND finished_at > clock() - interval '1 day' ORDER BY run_id DESC LIMIT %(rows)s",
            {"name": model_name, "version": version, "rows": max_rows},
        )
        return [json.loads(text) for (text,) in rows]

    @override
    def snapshots_in_use(self, dropped_partitions: Sequence[int]) -> set[str]:
        rows = self._session.fetch(
            "SELECT DISTINCT r.feature_snapshot FROM scoring_runs AS r JOIN scored_partitions AS p"
            " ON r.run_id >= p.low AND r.run_id < p.high WHERE NOT p.low = ANY(%s::bigint[])",
            (list(dropped_partitions),),
        )
        return {snapshot for (snapshot,) in rows}

    @override
    def runs_of_drops(self, drop_ids: Sequence[int]) -> list[tuple[int, str]]:
        rows = self._session.fetch(
            "SELECT run_id, (finished_at AT TIME ZONE 'UTC')::date || ' v' || model_version FROM scoring_runs"
            " WHERE drop_id = ANY(%s::bigint[])",
            (list(drop_ids),),
        )
        return [(run_id, subject) for run_id, subject in rows]

    @override
    def delete(self, run_ids: Sequence[int]) -> None:
        self._session.execute("DELETE FROM scoring_runs WHERE run_id = ANY(%s::bigint[])", (list(run_ids),))


def _mark(name: str, value: object) -> str:
    if isinstance(value, float):
        return f"nullif(%({name})s, 'NaN'::float8)"
    cast = "::jsonb" if name == "profile" else _CASTS.get(name, "")
    return f"%({name})s{cast and f'::text{cast}'}"
