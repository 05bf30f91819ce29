"""The history by other columns than the entity: DuckDB SQL.

Many rows share a value, so that each day of a value is aggregated once, and then the days before each row's own.
"""

from __future__ import annotations

from apex_ml.contract.history_state import (
    Aggregate,
    DistinctValues,
    Extreme,
    LastDate,
    LastTarget,
    LatestValue,
    StateColumn,
    state_columns,
)
from apex_ml.contract.model import Contract
from apex_ml.sql.features import aggregate_sql, last_target_sql, only, place_sql, select_state
from apex_ml.sql.quote import identifier
from apex_ml.sql.row_time import days_before, time_sql


def select_state_by(contract: Contract, asked: str, rows: str, by: tuple[str, ...]) -> str:
    """SQL: the state of each distinct (values, timestamp) of the relation `asked`, from the relation `rows`.

    The result is that of :func:`~apex_ml.sql.features.select_state`. Distinct values of days do not add up: they are
    counted by that function, over the rows.
    """
    columns = state_columns(contract, by)
    if any(isinstance(column.aggregate, DistinctValues) for column in columns):
        return select_state(contract, asked, rows, by)
    when, keys = identifier(contract.timestamp), [identifier(name) for name in by]
    before = days_before(contract, f"a.{when}", contract.features.history_lag_days)
    parts = {aggregate: f"part_{nr}" for nr, aggregate in enumerate(dict.fromkeys(c.aggregate for c in columns))}
    of_day = ", ".join(f"{_of_day(contract, aggregate)} AS {part}" for aggregate, part in parts.items())
    key = ", ".join(f"h.{name}" for name in keys)
    days = f"SELECT {key}, h.{when}, {of_day} FROM {rows} AS h GROUP BY {key}, h.{when}"
    select = ", ".join(
        f"{_of_days(contract, column, f'h.{parts[column.aggregate]}', before)} AS {identifier(column.name)}"
        for column in columns
    )
    names, same = ", ".join(f"a.{name}" for name in keys), " AND ".join(f"h.{name} = a.{name}" for name in keys)
    return (
        f"SELECT {names}, a.{when}, {select} FROM (SELECT DISTINCT {', '.join(keys)}, {when} FROM {asked}) AS a "
        f"LEFT JOIN ({days}) AS h ON {same} AND h.{when} < {before} GROUP BY {names}, a.{when}"
    )


def _of_day(contract: Contract, aggregate: Aggregate) -> str:
    """SQL: what is kept of the rows `h` of one day."""
    if isinstance(aggregate, LastTarget):
        return f"max({place_sql(contract, 'h')})"
    if isinstance(aggregate, LatestValue):
        aggregate = Extreme(aggregate.measure, "max")
    return aggregate_sql(contract, StateColumn("", "integer", aggregate), "")


def _of_days(contract: Contract, column: StateColumn, part: str, before: str) -> str:
    """SQL: a column of the state over the days `h`, of each of which `part` is kept."""
    when, time, window = f"h.{identifier(contract.timestamp)}", time_sql(contract, "h"), column.scope.window
    recent = [f"{when} >= {days_before(contract, before, window)}"] if window else []
    match column.aggregate:
        case LastDate():
            return f"max({when})"
        case LastTarget():
            return last_target_sql(contract, time, part)
        case Extreme(_, side):
            return f"{side}({part}){only(recent)}"
        case LatestValue(_):
            return f"(max({{'time': {time}, 'value': {part}}}){only([f'{part} IS NOT NULL', *recent])}).value"
    return f"CAST(coalesce(sum({part}){only(recent)}, 0) AS BIGINT)"
