"""What a simulation of many weeks asks of Postgres: to move the times of what it wrote, and the results by week."""

from __future__ import annotations

from datetime import date, datetime

from apex_ml.adapters.postgres.connection import transaction
from apex_ml.settings import Settings

_TIMES = {
    "scoring_runs": ("started_at", "finished_at"),
    "drops": ("received_at", "delivered_at"),
    "promotions": ("decided_at", "done_at"),
    "alerts": ("raised_at", "last_seen_at", "resolved_at"),
    "drift": ("measured_at",),
    "model_versions": ("recorded_at",),
}


def move_times(settings: Settings, after: datetime, to: datetime) -> None:
    """Set every time after a moment to another one."""
    with transaction(settings) as session:
        for table, columns in _TIMES.items():
            for column in columns:
                session.execute(f"UPDATE apex.{table} SET {column} = %s WHERE {column} > %s", (to, after))


def drifted_features(settings: Settings, drop: str) -> list[str]:
    """The features of a drop that drifted, by name."""
    with transaction(settings) as session:
        rows = session.fetch(
            "SELECT DISTINCT f.feature FROM apex.drift AS f JOIN apex.scoring_runs AS r ON f.subject = r.run_id::text"
            " AND f.scope = 'drop' JOIN apex.drops AS d USING (drop_id) WHERE f.drifted AND d.name = %s ORDER BY 1",
            (drop,),
        )
    return [feature for (feature,) in rows]


def week_quality(settings: Settings, week: date, version: int) -> tuple[float | None, bool]:
    """Log loss of a version's week, and whether it was worse than expected; (None, False) before it is evaluated."""
    with transaction(settings) as session:
        row = session.fetch_one(
            "SELECT log_loss, worse FROM apex.model_quality WHERE week = %s AND model_version = %s", (week, version)
        )
    return (row[0], row[1]) if row else (None, False)
