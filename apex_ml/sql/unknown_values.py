"""Values of a drop that the model or the history snapshot does not know: DuckDB SQL."""

from __future__ import annotations

from pathlib import Path

from apex_ml.contract.columns import Column
from apex_ml.sql.file_types import level_sql
from apex_ml.sql.parquet import scan_parquet
from apex_ml.sql.quote import identifier


def top_unknown_values(accepted: str, column: Column, limit: int) -> str:
    """The most frequent values of a column that are not among the bind parameter `levels`, each with its rows."""
    c = level_sql(column, identifier(column.name))
    return (
        f"SELECT {c}, count(*) AS n FROM ({accepted}) WHERE {c} IS NOT NULL AND NOT list_contains($levels, {c})"
        f" GROUP BY 1 ORDER BY n DESC, 1 LIMIT {limit:d}"
    )


def top_unknown_entities(accepted: str, entity: str, snapshot: Path, limit: int) -> str:
    """The most frequent entities, as text, that the snapshot does not hold, each with its rows."""
    e = identifier(entity)
    return (
        f"SELECT {e}::VARCHAR, count(*) AS n FROM ({accepted}) WHERE {e} NOT IN {_entities(e, snapshot)}"
        f" GROUP BY 1 ORDER BY n DESC, 1 LIMIT {limit:d}"
    )


def select_known_entity(entity: str, snapshot: Path) -> str:
    """One entity of the snapshot, as text."""
    e = identifier(entity)
    return f"SELECT min({e})::VARCHAR FROM {_entities(e, snapshot)}"


def _entities(entity: str, snapshot: Path) -> str:
    return f"(SELECT {entity} FROM {scan_parquet(snapshot)})"
