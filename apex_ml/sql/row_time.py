"""The times of rows in SQL: of their dates, or of their instants where the timestamp column has the type timestamp."""

from __future__ import annotations

from apex_ml.contract.model import Contract
from apex_ml.contract.time_units import MICROSECONDS_A_DAY
from apex_ml.sql.file_types import zone_sql
from apex_ml.sql.quote import identifier, literal


def time_sql(contract: Contract, relation: str) -> str:
    """DuckDB SQL: the time of a row since 1970-01-01 UTC, an integer: days of a date, else microseconds."""
    when = f"{relation}.{identifier(contract.timestamp)}"
    return f"epoch_us({when})" if contract.has_instants else f"date_diff('day', DATE '1970-01-01', {when})"


def day_number_sql(contract: Contract, relation: str) -> str:
    """DuckDB SQL: the days from 1970-01-01 to the row, in UTC, an integer."""
    time = time_sql(contract, relation)
    if not contract.has_instants:
        return time
    # a division of integers that rounds down, also before 1970
    within = f"({time} % {MICROSECONDS_A_DAY} + {MICROSECONDS_A_DAY}) % {MICROSECONDS_A_DAY}"
    return f"(({time} - {within}) // {MICROSECONDS_A_DAY})"


def time_before(contract: Contract, when: str, units: int) -> str:
    """DuckDB SQL: a time of a row, less units of time: days of a date, else microseconds."""
    if not units:
        return when
    return f"{when} - to_microseconds({units})" if contract.has_instants else f"{when} - {units}"


def day_sql(contract: Contract, relation: str = "") -> str:
    """DuckDB SQL: the date of a row; of an instant that on the clock of its time zone."""
    when = f"{relation}.{identifier(contract.timestamp)}" if relation else identifier(contract.timestamp)
    if not contract.has_instants:
        return when
    zone = contract.columns[contract.timestamp].timezone
    return f"CAST({when if zone is None else zone_sql(zone, when)} AS DATE)"


def postgres_day_sql(contract: Contract, relation: str) -> str:
    """SQL of Postgres: the date of a row; of an instant that on the clock of its time zone."""
    when = f"{relation}.{identifier(contract.timestamp)}"
    if not contract.has_instants:
        return when
    zone = contract.columns[contract.timestamp].timezone
    return f"({when if zone is None else f'{when} AT TIME ZONE {literal(zone)}'})::date"
