"""The clock on which a file's instants are read as days.

Spark stores midnight in Madrid as 22:00 or 23:00 of the day before in UTC. The zone of the session that wrote the file
is in its footer when Spark wrote in a legacy mode, as Databricks does; else only the contract can know it.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from apex_ml.adapters.duckdb.engine import VALUE_ERRORS, errors_name, one_row
from apex_ml.contract.column_names import match_columns
from apex_ml.contract.model import Contract
from apex_ml.errors import DataError
from apex_ml.sql.file_types import local_time
from apex_ml.sql.quote import identifier, literal

logger = logging.getLogger(__name__)
SPARK_ZONE = b"org.apache.spark.timeZone"
"""Key of the footer under which Spark keeps the zone of its session."""
NEARLY_ALL = 0.99
FEW_TIMED = 0.05
"""A smaller share of values with a time of day is not looked at."""
FEW_ROWS = 20
"""Days of fewer rows may share an hour by chance: that only warns."""
_UTC = frozenset(
    ("UTC", "Etc/UTC", "GMT", "Etc/GMT", "Z", "UCT", "Etc/UCT", "Zulu", "Universal", "+00:00", "UTC+00:00")
)


@dataclass(frozen=True)
class _Stored:
    """A day column as a file stores it: its place, whether it holds instants, and the zone of the session or None."""

    name: str
    place: int
    kind: pa.DataType
    instants: bool
    session: str | None


def on_own_clock(con: duckdb.DuckDBPyConnection, path: Path, contract: Contract, schema: pa.Schema) -> pa.Schema:
    """The schema with the zone of each day column that is stored in UTC but meant on another clock.

    That is the session's zone of the footer, else the column's `timezone` of the contract. A column of which nearly
    every value is midnight on one of these clocks, or in UTC, and not on the first one, holds days of that clock.
    Values without a zone are read as they are written, unless only `timezone` makes them midnights.
    """
    for stored in _stored(path, contract, schema):
        declared = contract.columns[stored.name].timezone
        known = [_zone(con, path, z) for z in (stored.session, declared) if z]
        clocks = list(dict.fromkeys([z for z in known if z] + ["UTC"]))
        if not stored.instants:
            clocks.sort(key=lambda zone: zone != "UTC")
        if clocks == ["UTC"]:
            continue
        kinds = [_on(stored, zone) for zone in clocks]
        shares = _midnights(con, path, schema, stored, kinds)
        chosen = next((n for n, share in enumerate(shares) if share >= NEARLY_ALL), 0)
        if clocks[chosen] != "UTC":
            schema = schema.set(stored.place, schema.field(stored.place).with_type(kinds[chosen]))
        logger.info("days_read file=%s column=%s clock=%s of=%s", path, stored.name, clocks[chosen], clocks)
    return schema


def shared_hours(
    con: duckdb.DuckDBPyConnection,
    path: Path,
    contract: Contract,
    schemas: tuple[pa.Schema, pa.Schema],
    rows: int,
    timed: dict[str, int],
    table: str,
) -> dict[str, int]:
    """Warnings for the day columns whose values nearly all share an hour that is not midnight, each with the rows.

    `schemas` are the file's own and that of :func:`on_own_clock`; `timed` tells how many rows of a column have a time
    of day. Raises :class:`~apex_ml.errors.DataError` when such values are instants, and no `timezone` of the contract
    says on which clock they are days: each would be the wrong day. `table` is SQL of the file's rows, each column named
    by its place.
    """
    own, schema = schemas
    warnings: dict[str, int] = {}
    if not any(timed.values()):
        return warnings
    for stored in _stored(path, contract, own, every=True):
        if timed.get(stored.name, 0) < FEW_TIMED * rows or not rows:
            continue
        kind = schema.field(stored.place).type
        hours, exact = _hours(con, path, table, local_time(kind, identifier(f"c{stored.place}")))
        if not hours or not (exact or rows >= FEW_ROWS):
            continue
        clock = kind.tz or ("UTC" if stored.instants else "the file")
        found = f"{stored.name}: nearly all values are at {' or '.join(hours)} on the clock of {clock}, not at midnight"
        if exact and stored.instants and rows >= FEW_ROWS and contract.columns[stored.name].timezone is None:
            raise DataError(
                f"{path.name}: column {found}, so each may be the wrong day. Set `timezone` of {stored.name} in the"
                f" contract to the zone where they are midnight (such as Europe/Madrid), or to {clock} if the days are"
                " right; or deliver the column as date"
            )
        other = kind.tz == own.field(stored.place).type.tz not in (None, *_UTC)
        remedy = "deliver the column as date" if other else f"set `timezone` of {stored.name} in the contract"
        warnings[f"{found}; if the days are wrong, {remedy}"] = rows
    return warnings


def _stored(path: Path, contract: Contract, schema: pa.Schema, *, every: bool = False) -> list[_Stored]:
    """The day columns that hold instants in UTC, or times without a zone; with `every` those of any zone, too."""
    found = []
    footer: pq.FileMetaData | None = None
    places = match_columns(contract, schema.names).places
    for column in contract.columns.values():
        place = places.get(column.name, -1)
        if column.type != "date" or place < 0:
            continue
        kind = schema.field(place).type
        if not pa.types.is_timestamp(kind) or (kind.tz and kind.tz not in _UTC and not every):
            continue
        session = (schema.metadata or {}).get(SPARK_ZONE, b"").decode("utf-8", "replace") or None
        if not every and column.timezone is None and (session is None or session in _UTC):
            continue  # there is no clock but that of UTC
        instants = kind.tz in _UTC
        if not kind.tz:
            footer = footer or pq.read_metadata(path)
            # Impala writes the clock on the wall into INT96; all others write instants
            instants = _is_int96(footer, schema.names[place]) and not (footer.created_by or "").lower().startswith(
                "impala"
            )
        found.append(_Stored(column.name, place, kind, instants, session if instants else None))
    return found


def _is_int96(footer: pq.FileMetaData, name: str) -> bool:
    columns = (footer.schema.column(nr) for nr in range(footer.num_columns))
    return any(c.path == name and c.physical_type == "INT96" for c in columns)


def _zone(con: duckdb.DuckDBPyConnection, path: Path, zone: str) -> str | None:
    """A zone as the checks take it: a name that DuckDB knows, an offset, or UTC; None for any other."""
    if zone in _UTC:
        return "UTC"
    offset = zone.removeprefix("UTC").removeprefix("GMT")
    if offset[:1] in ("+", "-"):
        hours, _, minutes = offset[1:].partition(":")
        if hours.isdigit() and len(hours) <= 2 and (minutes or "00").isdigit():
            return f"{offset[0]}{int(hours):02d}:{int(minutes or 0):02d}"
    if one_row(con, f"SELECT count(*) FROM pg_timezone_names() WHERE name = {literal(zone)}")[0]:
        return zone
    logger.warning("zone_unknown file=%s zone=%s", path, zone)
    return None


def _on(stored: _Stored, zone: str) -> pa.DataType:
    if zone == "UTC":
        return stored.kind
    # DuckDB reads INT96 and times without a zone as microseconds
    return pa.timestamp(stored.kind.unit if stored.kind.tz else "us", zone)


def _column(path: Path, schema: pa.Schema) -> str:
    names = ", ".join(f"c{place}" for place in range(len(schema)))
    return f"read_parquet({literal(str(path))}, hive_partitioning = false) AS file({names})"


def _midnights(
    con: duckdb.DuckDBPyConnection, path: Path, schema: pa.Schema, stored: _Stored, kinds: list[pa.DataType]
) -> list[float]:
    """The share of the values that is midnight, for each kind as which they may be read."""
    value = identifier(f"c{stored.place}")
    tests = (f"{local_time(kind, value)} = date_trunc('day', {local_time(kind, value)})" for kind in kinds)
    counts = ", ".join(f"count(*) FILTER (WHERE {test})" for test in tests)
    try:
        with errors_name(path.name):
            total, *found = one_row(con, f"SELECT count({value}), {counts} FROM {_column(path, schema)}")
    except DataError as error:
        if not isinstance(error.__cause__, VALUE_ERRORS):
            raise
        return [0.0 for _ in kinds]  # some value cannot be decoded: the first clock holds
    return [n / total if total else 0.0 for n in found]


def _hours(con: duckdb.DuckDBPyConnection, path: Path, table: str, local: str) -> tuple[list[str], bool]:
    """The time of day that nearly all values share and whether it is exact, else only the hour; nothing if they do not.

    It may be two times an hour apart, as summer time makes them. Times that leave a day in its place are nothing.
    """
    quarter = f"((CAST(floor(epoch({local}) / 900) AS BIGINT) % 96) + 96) % 96"
    with errors_name(path.name):
        found = con.execute(
            f"SELECT {quarter}, epoch({local}) % 900 = 0, count(*) FROM {table} WHERE {local} IS NOT NULL GROUP BY ALL"
        ).fetchall()
    total = sum(n for _, _, n in found)
    for exact in (True, False):
        counts: Counter[int] = Counter()
        for place, whole, n in found:
            if whole or not exact:
                counts[place if exact else place // 4 * 4] += n
        top = counts.most_common(2)
        if len(top) == 2 and (top[0][0] - top[1][0]) % 96 not in (4, 92):
            top = top[:1]
        places = sorted(place for place, n in top if n > (1 - NEARLY_ALL) * total)
        if sum(n for _, n in top) < NEARLY_ALL * total or not places:
            continue
        if 0 in places and not (exact and places == [0, 92]):  # midnight, in winter only when it is 23:00 in summer
            break
        return [f"{place // 4:02d}:{place % 4 * 15:02d}" if exact else f"{place // 4:02d}:…" for place in places], exact
    return [], False
