"""What the Apex page asks of Postgres: as apex_reader, of its views alone, in one snapshot."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2
import psycopg2.extras

from apex_ml.settings import Settings

Row = dict[str, Any]
SHOWN = 20
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
SELECT promotion_id, to_version AS version, action, who, reasons, decided_at, from_version, evidence
FROM apex.model_history
WHERE model_name = %(model)s AND state = 'done' AND action IN ('promote', 'reject') AND to_version IS NOT NULL
ORDER BY promotion_id DESC LIMIT 1
"""
HISTORY = """
SELECT promotion_id, decided_at, action, from_version, to_version, state, who, reasons,
       challenger_log_loss, champion_log_loss, prior_log_loss, holdout_orders
FROM apex.model_history WHERE model_name = %(model)s ORDER BY promotion_id DESC LIMIT %(shown)s
"""
TOTALS = """
SELECT count(*) AS drops, count(*) FILTER (WHERE state = 'done') AS done,
       count(*) FILTER (WHERE state = 'failed') AS failed,
       coalesce(sum(rows_scored), 0)::bigint AS rows_scored, max(finished_at) AS newest
FROM apex.drop_summary
"""
DROPS = """
SELECT drop_id, name, sha256, state, reason, deliveries, received_at, superseded_by, run_id, model_version,
       scoring_mlflow_run_id, rows_in, rows_scored, rows_quarantined, confidence_mean, confidence_median,
       row_us_mean, row_us_p95, ms_total, finished_at
FROM apex.drop_summary ORDER BY drop_id DESC LIMIT %(shown)s
"""
ALERTS = """
SELECT alert_id, kind, subject, message, raised_at, count(*) OVER () AS open
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
        connection = psycopg2.connect(url, connect_timeout=3, application_name="apex page", options=OPTIONS)
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


def first(connection: psycopg2.extensions.connection, query: str, **values: object) -> Row | None:
    """Run a query; return its first row, None without any."""
    found = rows(connection, query, **values)
    return found[0] if found else None
