"""What scoring leaves in Postgres, without what differs from run to run; and the fault points on the way there."""

from __future__ import annotations

from typing import Any

from tests.support.apex_home import Apex

BEFORE = ("score_begun", "score_claimed", "rows_streaming", "score_written", "partition_attached")
"""Fault points before the commit of a drop."""
LARGE_ONLY = ("partition_attached",)
"""The points that only a drop with its own partition reaches."""
AFTER = ("score_committed", "outbox_begun", "outbox_logged")

VOLATILE = "{run_id,drop_id,step_run,started_at,finished_at,ms_total,ms_check,ms_features,ms_predict,ms_write,"
VOLATILE += "row_us_mean,row_us_p50,row_us_p95,row_us_p99,scored_at,quarantined_at,recorded_at}"
OF_RUNS = "JOIN orders.scoring_runs AS r USING (run_id) JOIN orders.drops AS d USING (drop_id)"
TABLES = {
    "drops": "SELECT d.sha256, d.name, d.bytes, d.rows, d.state, d.reason, s.sha256 FROM orders.drops AS d"
    " LEFT JOIN orders.drops AS s ON s.drop_id = d.superseded_by",
    "runs": "SELECT d.sha256, (to_jsonb(r) - %(v)s::text[])::text"
    " FROM orders.scoring_runs AS r JOIN orders.drops AS d USING (drop_id)",
    "classes": f"SELECT d.sha256, c.predicted, (to_jsonb(c) - %(v)s::text[])::text"
    f" FROM orders.scoring_run_classes AS c {OF_RUNS}",
    "orders": "SELECT d.sha256, count(*), md5(string_agg((to_jsonb(s) - %(v)s::text[])::text, ',' ORDER BY s.row_nr))"
    f" FROM orders.scored AS s {OF_RUNS} GROUP BY 1",
    "outcomes": "SELECT d.sha256, count(*), md5(string_agg((to_jsonb(o) - %(v)s::text[])::text, ',' ORDER BY o.row_nr))"
    f" FROM orders.outcomes AS o {OF_RUNS} GROUP BY 1",
    "quarantined": "SELECT q.source_sha256, q.row_nr, (to_jsonb(q) - %(v)s::text[])::text"
    " FROM orders.quarantined_rows AS q",
    "told": f"SELECT d.sha256, o.sent_at IS NOT NULL FROM orders.mlflow_outbox AS o {OF_RUNS}",
    "alerts": "SELECT kind, subject, message FROM orders.alerts",
}


def tables(apex: Apex) -> dict[str, list[tuple[Any, ...]]]:
    """All that scoring leaves, without what differs from run to run."""
    return {name: sorted(apex.sql(query, {"v": VOLATILE})) for name, query in TABLES.items()}
