"""Times of day of a file's instants on the clocks of zones: DuckDB SQL."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa

from apex_ml.sql.file_types import local_time, zone_sql
from apex_ml.sql.parquet import place_name, scan_by_place
from apex_ml.sql.quote import identifier, literal


def count_zones(name: str) -> str:
    """Count the time zones of a name: 1, or 0 for a name that DuckDB does not know."""
    return f"SELECT count(*) FROM pg_timezone_names() WHERE name = {literal(name)}"


def convert_epoch(zone: str) -> str:
    """Convert an instant to the clock of a zone; fails when the zone is unknown."""
    return f"SELECT {zone_sql(zone, literal('1970-01-01 00:00:00+00') + '::TIMESTAMPTZ')}"


def count_midnights(path: Path, columns: int, place: int, kinds: Iterable[pa.DataType]) -> str:
    """Count the values of a file's column, then those that are midnight when read as each of the kinds."""
    value = identifier(place_name(place))
    tests = (f"{local_time(kind, value)} = date_trunc('day', {local_time(kind, value)})" for kind in kinds)
    counts = ", ".join(f"count(*) FILTER (WHERE {test})" for test in tests)
    return f"SELECT count({value}), {counts} FROM {scan_by_place(path, columns)}"


def count_quarter_hours(relation: str, kind: pa.DataType, place: int) -> str:
    """Count values by the quarter hour of the day, from 0 to 95, and by whether they are exactly at its start."""
    local = local_time(kind, identifier(place_name(place)))
    quarter = f"((CAST(floor(epoch({local}) / 900) AS BIGINT) % 96) + 96) % 96"
    return (
        f"SELECT {quarter}, epoch({local}) % 900 = 0, count(*) FROM {relation} WHERE {local} IS NOT NULL GROUP BY ALL"
    )
