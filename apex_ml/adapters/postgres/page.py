"""What the Apex page alone reads of the views: its tables, and the rows of its charts.

Light to import, as :mod:`~apex_ml.adapters.postgres.views`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

from typing_extensions import override

from apex_ml.adapters.postgres.connection import PsycopgSession
from apex_ml.adapters.postgres.views import ViewRow
from apex_ml.core.recorded_evidence import under_both_names

_HISTORY = "FROM model_history WHERE model_name = %(model)s"


class PageQueries(Protocol):
    """The rows of the page about one model."""

    def evidence(self, version: int | None) -> ViewRow | None:
        """The gate's latest decision about a version with its evidence.

        A rollback or a manual move brings no evidence of its own.
        """
        ...

    def challenger(self) -> ViewRow | None:
        """The challenger with its evidence; None without one."""
        ...

    def training(self, version: int | None) -> ViewRow | None:
        """The MLflow run of a version and its pages; None where they are not known."""
        ...

    def decisions(self, limit: int) -> list[ViewRow]:
        """The last decisions about the champion with their log losses, newest first."""
        ...

    def earlier_champions(self, version: int | None, limit: int) -> list[ViewRow]:
        """Other versions that were champion, each with the end of its last time as champion, newest first."""
        ...

    def drop_totals(self) -> ViewRow | None:
        """Drops by state, scored rows, and when the newest scoring ended."""
        ...

    def drops(self, limit: int) -> list[ViewRow]:
        """The newest drops with the shares of their predicted classes."""
        ...

    def class_mix(self, now: datetime, days: int) -> list[ViewRow]:
        """Rows by day of scoring and predicted class over the last days."""
        ...

    def confidence(self, now: datetime, days: int) -> list[ViewRow]:
        """Mean confidence by day of scoring over the last days."""
        ...

    def drift(self, scope: str, subjects: int) -> list[ViewRow]:
        """Drift of the newest subjects of a scope, oldest first; `label` is the name of the subject for people."""
        ...

    def quality(self) -> list[ViewRow]:
        """Quality by week and version, newest first."""
        ...

    def alerts(self, limit: int) -> list[ViewRow]:
        """The newest open alerts, each with the number of all open ones."""
        ...


class PostgresPageQueries(PageQueries):
    """The rows from the views of a pipeline."""

    def __init__(self, session: PsycopgSession, model_name: str) -> None:
        self._session = session
        self._model_name = model_name

    def _rows(self, query: str, **values: object) -> list[ViewRow]:
        return self._session.fetch_dicts(query, {"model": self._model_name, **values})

    def _first(self, query: str, **values: object) -> ViewRow | None:
        rows = self._rows(query, **values)
        return rows[0] if rows else None

    def _with_evidence(self, query: str, **values: object) -> ViewRow | None:
        row = self._first(query, **values)
        return row and row | {"evidence": under_both_names(row["evidence"])}

    @override
    def evidence(self, version: int | None) -> ViewRow | None:
        return self._with_evidence(
            f"SELECT promotion_id, decided_at, action, from_version, to_version, reasons, evidence {_HISTORY}"
            " AND state = 'done' AND to_version = %(version)s AND action IN ('promote', 'force', 'reject')"
            " AND challenger_log_loss IS NOT NULL ORDER BY promotion_id DESC LIMIT 1",
            version=version,
        )

    @override
    def challenger(self) -> ViewRow | None:
        return self._with_evidence(
            "SELECT promotion_id, version, who, reasons, decided_at, from_version, evidence"
            " FROM challenger WHERE model_name = %(model)s"
        )

    @override
    def training(self, version: int | None) -> ViewRow | None:
        return self._first(
            "SELECT mlflow_run_id, mlflow_experiment_id, pages FROM trained_versions WHERE model_name = %(model)s"
            " AND model_version = %(version)s AND mlflow_experiment_id IS NOT NULL",
            version=version,
        )

    @override
    def decisions(self, limit: int) -> list[ViewRow]:
        return self._rows(
            "SELECT promotion_id, decided_at, action, from_version, to_version, state, who, reasons,"
            f" challenger_log_loss, champion_log_loss, prior_log_loss, holdout_rows {_HISTORY}"
            " ORDER BY promotion_id DESC LIMIT %(limit)s",
            limit=limit,
        )

    @override
    def earlier_champions(self, version: int | None, limit: int) -> list[ViewRow]:
        return self._rows(
            "SELECT version, max(until) AS until FROM"
            f" (SELECT to_version AS version, lead(decided_at) OVER (ORDER BY promotion_id) AS until {_HISTORY}"
            " AND state = 'done' AND action <> 'reject') AS reigns"
            " WHERE version <> %(version)s GROUP BY version ORDER BY until DESC LIMIT %(limit)s",
            version=version,
            limit=limit,
        )

    @override
    def drop_totals(self) -> ViewRow | None:
        return self._first(
            "SELECT count(*) AS drops, count(*) FILTER (WHERE state = 'done') AS done,"
            " count(*) FILTER (WHERE state = 'failed') AS failed,"
            " coalesce(sum(rows_scored), 0)::bigint AS rows_scored, max(finished_at) AS newest FROM drop_summary"
        )

    @override
    def drops(self, limit: int) -> list[ViewRow]:
        return self._rows(
            "SELECT s.*, (SELECT jsonb_agg(jsonb_build_object('predicted', predicted, 'share', share)"
            " ORDER BY predicted) FROM drop_classes AS c WHERE c.drop_id = s.drop_id) AS classes FROM"
            " (SELECT drop_id, name, state, reason, superseded_by, run_id, model_version, rows_scored,"
            " rows_quarantined, confidence_mean, row_us_mean, ms_total, received_at, finished_at, input_alert,"
            " input_warning"
            " FROM drop_summary ORDER BY drop_id DESC LIMIT %(limit)s) AS s ORDER BY drop_id DESC",
            limit=limit,
        )

    @override
    def class_mix(self, now: datetime, days: int) -> list[ViewRow]:
        # by the day of scoring: reading the scored rows themselves would take seconds
        return self._rows(
            "SELECT s.finished_at::date AS day, c.predicted, sum(c.rows)::bigint AS rows"
            " FROM drop_summary AS s JOIN drop_classes AS c USING (run_id) WHERE s.superseded_by IS NULL"
            " AND s.finished_at > (%(now)s AT TIME ZONE 'UTC')::date - %(days)s + 1 GROUP BY 1, 2 ORDER BY 1, 2",
            now=now,
            days=days,
        )

    @override
    def confidence(self, now: datetime, days: int) -> list[ViewRow]:
        return self._rows(
            "SELECT finished_at::date AS day, sum(confidence_mean * rows_scored)"
            " / nullif(sum(rows_scored) FILTER (WHERE confidence_mean IS NOT NULL), 0) AS confidence"
            " FROM drop_summary WHERE superseded_by IS NULL"
            " AND finished_at > (%(now)s AT TIME ZONE 'UTC')::date - %(days)s + 1 GROUP BY 1 ORDER BY 1",
            now=now,
            days=days,
        )

    @override
    def drift(self, scope: str, subjects: int) -> list[ViewRow]:
        # the newest rows first, by the index on day: ten thousand drops have a hundred thousand rows
        rows = self._rows(
            "SELECT scope, subject, day, model_version, feature, kind, reference, rows, reference_rows, psi, effect,"
            " q_value, drifted, note, min_effect"
            " FROM (SELECT *, dense_rank() OVER (ORDER BY day DESC, subject_at DESC, subject DESC) AS place"
            " FROM (SELECT *, max(measured_at) OVER (PARTITION BY subject) AS subject_at"
            " FROM (SELECT * FROM drift_history WHERE scope = %(scope)s"
            " ORDER BY day DESC, measured_at DESC LIMIT 2000) AS newest) AS timed) AS placed"
            " WHERE place <= %(subjects)s ORDER BY place DESC, feature",
            scope=scope,
            subjects=subjects,
        )
        names: dict[str, str] = {}
        if scope == "drop":
            names = {
                row["subject"]: row["name"]
                for row in self._rows(
                    "SELECT run_id::text AS subject, name FROM drop_summary WHERE run_id::text = ANY(%(runs)s)",
                    runs=list({row["subject"] for row in rows}),
                )
            }
        return [{**row, "label": names.get(row["subject"], row["subject"])} for row in rows]

    @override
    def quality(self) -> list[ViewRow]:
        return self._rows(
            "SELECT week, model_version, scored, outcomes, coverage, log_loss, log_loss_low, log_loss_high,"
            " expected_log_loss, prior_log_loss, accuracy, accuracy_low, accuracy_high, macro_f1, ece, worse, note,"
            " verdict, compared_low, compared_high, expected_low, expected_high, upper_limit, sustained,"
            " sustained_evidence, sustained_since, sustained_excess"
            " FROM model_quality_weekly WHERE model_name = %(model)s"
            " ORDER BY week DESC, outcomes DESC, model_version DESC LIMIT 60"
        )

    @override
    def alerts(self, limit: int) -> list[ViewRow]:
        return self._rows(
            "SELECT alert_id, kind, subject, message, raised_at, last_seen_at, count(*) OVER () AS open"
            " FROM open_alerts ORDER BY raised_at DESC, alert_id DESC LIMIT %(limit)s",
            limit=limit,
        )
