"""What the Apex page asks of Postgres: as apex_reader, of its views alone, in one snapshot."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2
import psycopg2.extras

from apex_ml.adapters.postgres.sessions import connect_reader
from apex_ml.settings import Settings

Row = dict[str, Any]
SHOWN = 12
"""Rows of a table on the page."""
OPTIONS = "-c timezone=UTC -c statement_timeout=5000 -c default_transaction_read_only=on"

CHAMPION = """
SELECT promotion_id, to_version AS version, action, who, reasons, decided_at FROM apex.model_history
WHERE model_name = %(model)s AND state = 'done' AND action <> 'reject'
ORDER BY promotion_id DESC LIMIT 1
"""
# by the gate's own word: a rollback or a move by hand brings no evidence of its own
EVIDENCE = """
SELECT promotion_id, decided_at, action, from_version, to_version, reasons, evidence FROM apex.model_history
WHERE model_name = %(model)s AND state = 'done' AND to_version = %(version)s
  AND action IN ('promote', 'force', 'reject') AND challenger_log_loss IS NOT NULL
ORDER BY promotion_id DESC LIMIT 1
"""
CHALLENGER = """
SELECT promotion_id, version, who, reasons, decided_at, from_version, evidence
FROM apex.challenger WHERE model_name = %(model)s
"""
HISTORY = """
SELECT promotion_id, decided_at, action, from_version, to_version, state, who, reasons,
       challenger_log_loss, champion_log_loss, prior_log_loss, holdout_orders
FROM apex.model_history WHERE model_name = %(model)s ORDER BY promotion_id DESC LIMIT %(shown)s
"""
# each with the end of its last time in charge: the next finished move
EARLIER = """
SELECT version, max(until) AS until
FROM (
    SELECT to_version AS version, lead(decided_at) OVER (ORDER BY promotion_id) AS until
    FROM apex.model_history WHERE model_name = %(model)s AND state = 'done' AND action <> 'reject'
) AS reigns
WHERE version <> %(version)s GROUP BY version ORDER BY until DESC LIMIT %(shown)s
"""
TOTALS = """
SELECT count(*) AS drops, count(*) FILTER (WHERE state = 'done') AS done,
       count(*) FILTER (WHERE state = 'failed') AS failed,
       coalesce(sum(rows_scored), 0)::bigint AS rows_scored, max(finished_at) AS newest
FROM apex.drop_summary
"""
DROPS = """
SELECT s.*, (SELECT jsonb_agg(jsonb_build_object('predicted', predicted, 'share', share) ORDER BY predicted)
             FROM apex.drop_classes AS c WHERE c.drop_id = s.drop_id) AS classes
FROM (
    SELECT drop_id, name, state, reason, superseded_by, run_id, model_version, rows_scored, rows_quarantined,
           confidence_mean, row_us_mean, ms_total, received_at, finished_at, input_alert, input_warning
    FROM apex.drop_summary ORDER BY drop_id DESC LIMIT %(shown)s
) AS s ORDER BY drop_id DESC
"""
# of the days of scoring: a look at the scored orders themselves would take seconds
MIX = """
SELECT s.finished_at::date AS day, c.predicted, sum(c.orders)::bigint AS orders
FROM apex.drop_summary AS s JOIN apex.drop_classes AS c USING (run_id)
WHERE s.superseded_by IS NULL AND s.finished_at > (%(now)s AT TIME ZONE 'UTC')::date - %(days)s + 1
GROUP BY 1, 2 ORDER BY 1, 2
"""
CONFIDENCE = """
SELECT finished_at::date AS day,
       sum(confidence_mean * rows_scored) / nullif(sum(rows_scored) FILTER (WHERE confidence_mean IS NOT NULL), 0)
           AS confidence
FROM apex.drop_summary
WHERE superseded_by IS NULL AND finished_at > (%(now)s AT TIME ZONE 'UTC')::date - %(days)s + 1 GROUP BY 1 ORDER BY 1
"""
# the newest rows first, by the index on day: of ten thousand drops there are a hundred thousand
DRIFT = """
SELECT scope, subject, day, model_version, feature, kind, reference, rows, reference_rows, psi, effect, q_value,
       drifted, note, min_effect
FROM (
    SELECT *, dense_rank() OVER (ORDER BY day DESC, subject_at DESC, subject DESC) AS place
    FROM (
        SELECT *, max(measured_at) OVER (PARTITION BY subject) AS subject_at
        FROM (SELECT * FROM apex.drift_history WHERE scope = %(scope)s
              ORDER BY day DESC, measured_at DESC LIMIT 2000) AS newest
    ) AS timed
) AS placed
WHERE place <= %(columns)s ORDER BY place DESC, feature
"""
NAMES = "SELECT run_id::text AS subject, name FROM apex.drop_summary WHERE run_id::text = ANY(%(subjects)s)"
QUALITY = """
SELECT week, model_version, scored, outcomes, coverage, log_loss, log_loss_low, log_loss_high, expected_log_loss,
       prior_log_loss, accuracy, accuracy_low, accuracy_high, macro_f1, ece, worse, note, verdict, compared_low,
       compared_high, expected_low, expected_high, upper_limit, sustained, sustained_evidence, sustained_since,
       sustained_excess
FROM apex.model_quality_weekly WHERE model_name = %(model)s
ORDER BY week DESC, outcomes DESC, model_version DESC LIMIT 60
"""
ALERTS = """
SELECT alert_id, kind, subject, message, raised_at, last_seen_at, count(*) OVER () AS open
FROM apex.open_alerts ORDER BY raised_at DESC, alert_id DESC LIMIT %(shown)s
"""


class DatabaseDownError(Exception):
    """Postgres does not answer, or lacks what the page reads; the text says where, why and what to do."""


@contextmanager
def reading(settings: Settings) -> Iterator[psycopg2.extensions.connection]:
    """Open a read-only connection whose queries all see the same state, none longer than five seconds.

    Raises DatabaseDownError when Postgres does not answer, or when its tables are older than this code.
    """
    url = settings.reader_url
    try:
        connection = connect_reader(settings, OPTIONS, connect_timeout=3, application_name="apex page")
        try:
            connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
            yield connection
        finally:
            connection.close()
    except psycopg2.Error as error:
        told = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DatabaseDownError(f"Postgres at {url.rsplit('@', 1)[-1]}: {told}") from error


def rows(connection: psycopg2.extensions.connection, query: str, **values: object) -> list[Row]:
    """Run a query; return its rows by column name."""
    with connection.cursor(cursor_factory=psycopg2.extras.RealDictCursor) as cursor:
        cursor.execute(query, values)
        return [dict(row) for row in cursor.fetchall()]


def drift(connection: psycopg2.extensions.connection, scope: str, columns: int) -> list[Row]:
    """Drift of the newest subjects of a scope, the oldest first; `label` is what people call the subject."""
    found = rows(connection, DRIFT, scope=scope, columns=columns)
    named: dict[str, str] = {}
    if scope == "drop":
        subjects = list({row["subject"] for row in found})
        named = {row["subject"]: row["name"] for row in rows(connection, NAMES, subjects=subjects)}
    return [{**row, "label": named.get(row["subject"], row["subject"])} for row in found]


def first(connection: psycopg2.extensions.connection, query: str, **values: object) -> Row | None:
    """Run a query; return its first row, None without any."""
    found = rows(connection, query, **values)
    return found[0] if found else None
