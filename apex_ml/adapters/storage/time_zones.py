"""The clock on which a file's instants are read as days.

Spark stores midnight in Madrid as 22:00 or 23:00 of the previous day in UTC. The footer names the session's time zone
when Spark wrote in a legacy mode, as Databricks does. Otherwise only the contract can name it.
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
from apex_ml.sql.time_zones import count_midnights, count_quarter_hours, count_zones

logger = logging.getLogger(__name__)
SPARK_ZONE = b"org.apache.spark.timeZone"
"""Key of the footer under which Spark stores the time zone of its session."""
NEARLY_ALL = 0.99
MIN_TIMED_SHARE = 0.05
"""A column with a smaller share of values with a time of day is not examined."""
SMALL_ROWS = 20
"""The days of fewer rows may share an hour by chance: that gives only a warning."""
_UTC = frozenset(
    ("UTC", "Etc/UTC", "GMT", "Etc/GMT", "Z", "UCT", "Etc/UCT", "Zulu", "Universal", "+00:00", "UTC+00:00")
)


@dataclass(frozen=True)
class _Stored:
    """A date column as a file stores it: its place, whether it holds instants, and the session's time zone or None."""

    name: str
    place: int
    kind: pa.DataType
    instants: bool
    session: str | None


def on_own_clock(con: duckdb.DuckDBPyConnection, path: Path, contract: Contract, schema: pa.Schema) -> pa.Schema:
    """The schema with the time zone of each date column that is stored in UTC but means days of another clock.

    The candidates are the session's time zone of the footer, the column's `timezone` of the contract, and UTC. The
    first one on which nearly every value is midnight is chosen; without such a clock, the first candidate. Values
    without a zone are read as written, unless only `timezone` makes them midnights.
    """
    schema = _instants_of_int96(path, contract, schema)
    for stored in _stored(path, contract, schema):
        declared = contract.columns[stored.name].timezone
        zones = [_zone(con, path, z) for z in (stored.session, declared) if z]
        clocks = list(dict.fromkeys([z for z in zones if z] + ["UTC"]))
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
    """Warnings about date columns whose values nearly all share an hour that is not midnight, each with the rows.

    `schemas` are the file's own and that of :func:`on_own_clock`; `timed` is the number of rows of a column with a time
    of day. Raises :class:`~apex_ml.errors.DataError` when such values are instants and the contract has no `timezone`
    for the column: every day may then be wrong. `table` is a relation of the file's rows, each column named by its
    place.
    """
    own, schema = schemas
    warnings: dict[str, int] = {}
    if not any(timed.values()):
        return warnings
    for stored in _stored(path, contract, own, every=True):
        if timed.get(stored.name, 0) < MIN_TIMED_SHARE * rows or not rows:
            continue
        kind = schema.field(stored.place).type
        hours, exact = _hours(con, path, table, kind, stored.place)
        if not hours or not (exact or rows >= SMALL_ROWS):
            continue
        clock = kind.tz or ("UTC" if stored.instants else "the file")
        finding = (
            f"{stored.name}: nearly all values are at {' or '.join(hours)} on the clock of {clock}, not at midnight"
        )
        if exact and stored.instants and rows >= SMALL_ROWS and contract.columns[stored.name].timezone is None:
            raise DataError(
                f"{path.name}: column {finding}, so each may be the wrong day. Set `timezone` of {stored.name} in the"
                f" contract to the zone where they are midnight (such as Europe/Madrid), or to {clock} if the days are"
                " right; or deliver the column as date"
            )
        other = kind.tz == own.field(stored.place).type.tz not in (None, *_UTC)
        remedy = "deliver the column as date" if other else f"set `timezone` of {stored.name} in the contract"
        warnings[f"{finding}; if the days are wrong, {remedy}"] = rows
    return warnings


def _stored(path: Path, contract: Contract, schema: pa.Schema, *, every: bool = False) -> list[_Stored]:
    """The date columns that hold instants in UTC, or times without a zone; with `every` also those of other zones."""
    columns = []
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
            continue  # UTC is the only clock
        instants = kind.tz in _UTC
        if not kind.tz:
            footer = footer or pq.read_metadata(path)
            # Impala writes local time into INT96; all others write instants
            instants = _is_int96(footer, schema.names[place]) and not (footer.created_by or "").lower().startswith(
                "impala"
            )
        columns.append(_Stored(column.name, place, kind, instants, session if instants else None))
    return columns


def _instants_of_int96(path: Path, contract: Contract, schema: pa.Schema) -> pa.Schema:
    """The schema with INT96 in timestamp columns as instants, unless Impala wrote it: it writes local time."""
    for name, place in match_columns(contract, schema.names).places.items():
        kind = schema.field(place).type
        if contract.columns[name].type == "timestamp" and pa.types.is_timestamp(kind) and not kind.tz:
            footer = pq.read_metadata(path)
            if _is_int96(footer, schema.names[place]) and not (footer.created_by or "").lower().startswith("impala"):
                schema = schema.set(place, schema.field(place).with_type(pa.timestamp("us", "UTC")))
    return schema


def _is_int96(footer: pq.FileMetaData, name: str) -> bool:
    columns = (footer.schema.column(nr) for nr in range(footer.num_columns))
    return any(c.path == name and c.physical_type == "INT96" for c in columns)


def _zone(con: duckdb.DuckDBPyConnection, path: Path, zone: str) -> str | None:
    """A time zone in the form of the row checks: a name that DuckDB knows, an offset, or UTC; None for any other."""
    if zone in _UTC:
        return "UTC"
    offset = zone.removeprefix("UTC").removeprefix("GMT")
    if offset[:1] in ("+", "-"):
        hours, _, minutes = offset[1:].partition(":")
        if hours.isdigit() and len(hours) <= 2 and (minutes or "00").isdigit():
            return f"{offset[0]}{int(hours):02d}:{int(minutes or 0):02d}"
    if one_row(con, count_zones(zone))[0]:
        return zone
    logger.warning("zone_unknown file=%s zone=%s", path, zone)
    return None


def _on(stored: _Stored, zone: str) -> pa.DataType:
    if zone == "UTC":
        return stored.kind
    # DuckDB reads INT96 and times without a zone as microseconds
    return pa.timestamp(stored.kind.unit if stored.kind.tz else "us", zone)


def _midnights(
    con: duckdb.DuckDBPyConnection, path: Path, schema: pa.Schema, stored: _Stored, kinds: list[pa.DataType]
) -> list[float]:
    """The share of the values that are midnight, for each type as which they may be read."""
    try:
        with errors_name(path.name):
            total, *midnights = one_row(con, count_midnights(path, len(schema), stored.place, kinds))
    except DataError as error:
        if not isinstance(error.__cause__, VALUE_ERRORS):
            raise
        return [0.0 for _ in kinds]  # a value cannot be decoded: the first clock counts
    return [n / total if total else 0.0 for n in midnights]


def _hours(
    con: duckdb.DuckDBPyConnection, path: Path, table: str, kind: pa.DataType, place: int
) -> tuple[list[str], bool]:
    """The time of day that nearly all values share, and whether it is exact or only the hour; empty without one.

    It may be two times an hour apart, because of summer time. Times that keep every day in its place do not count.
    """
    with errors_name(path.name):
        quarters = con.execute(count_quarter_hours(table, kind, place)).fetchall()
    total = sum(n for _, _, n in quarters)
    for exact in (True, False):
        counts: Counter[int] = Counter()
        for quarter, whole, n in quarters:
            if whole or not exact:
                counts[quarter if exact else quarter // 4 * 4] += n
        top = counts.most_common(2)
        if len(top) == 2 and (top[0][0] - top[1][0]) % 96 not in (4, 92):
            top = top[:1]
        shared = sorted(quarter for quarter, n in top if n > (1 - NEARLY_ALL) * total)
        if sum(n for _, n in top) < NEARLY_ALL * total or not shared:
            continue
        if 0 in shared and not (exact and shared == [0, 92]):  # midnight, in winter only when it is 23:00 in summer
            break
        return [f"{q // 4:02d}:{q % 4 * 15:02d}" if exact else f"{q // 4:02d}:…" for q in shared], exact
    return [], False
