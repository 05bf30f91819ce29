"""What the simulated year reads from Postgres: the drifted features of a drop, and the quality of a week."""

from __future__ import annotations

from datetime import date

from apex_ml.adapters.postgres.connection import transaction
from apex_ml.settings import Settings


def drifted_features(settings: Settings, schema: str, drop: str) -> list[str]:
    """The features of a drop that drifted, by name."""
    with transaction(settings, schema) as session:
        rows = session.fetch(
            "SELECT DISTINCT f.feature FROM drift AS f JOIN scoring_runs AS r ON f.subject = r.run_id::text"
            " AND f.scope = 'drop' JOIN drops AS d USING (drop_id) WHERE f.drifted AND d.name = %s ORDER BY 1",
            (drop,),
        )
    return [feature for (feature,) in rows]


def week_quality(settings: Settings, schema: str, week: date, version: int) -> tuple[float | None, bool]:
    """Log loss of a version's week, and whether it was worse than expected; (None, False) before it is evaluated."""
    with transaction(settings, schema) as session:
        row = session.fetch_one(
            "SELECT log_loss, worse FROM model_quality WHERE week = %s AND model_version = %s", (week, version)
        )
    return (row[0], row[1]) if row else (None, False)
