"""The history's state and the examples as DuckDB SQL, compiled from the contract.

This module only builds text. Only rows dated strictly before the row in question count.
"""

from __future__ import annotations

from collections.abc import Sequence

from apex_ml.contract.history_state import (
    DaySum,
    DistinctValues,
    Extreme,
    KnownValues,
    LastDate,
    LastTarget,
    LatestValue,
    MeasureSum,
    Rows,
    StateColumn,
    state_columns,
)
from apex_ml.contract.model import Contract
from apex_ml.sql.file_types import level_sql
from apex_ml.sql.quote import identifier, identifiers, literal
from apex_ml.sql.row_time import day_number_sql, time_before, time_sql


def exact_sql(contract: Contract, measure: str, relation: str) -> str:
    """SQL: a column in its smallest unit, an integer; of one that is no number, an integer that sorts its values."""
    column, value = contract.columns[measure], f"{relation}.{identifier(measure)}"
    if column.type == "boolean":
        return f"CAST({value} AS BIGINT)"
    if column.type == "date":
        return f"date_diff('day', DATE '1970-01-01', {value})"
    if column.type == "timestamp":
        return f"epoch_us({value})"
    if column.type == "string":  # any order of its own, the same for the same values
        return f"CAST(hash({value}) >> 2 AS BIGINT)"
    return f"CAST(round({value} * {column.scale}) AS BIGINT)"


def code_sql(contract: Contract, attribute: str, relation: str) -> str:
    """SQL: an integer that is the same for the same values of an attribute, null for null."""
    exact = exact_sql(contract, attribute, relation)
    return f"CASE WHEN {relation}.{identifier(attribute)} IS NOT NULL THEN {exact} END"  # null has a hash, too


def place_sql(contract: Contract, relation: str) -> str:
    """SQL: the target's place among the classes, from 1; 0 for another value."""
    cases = " ".join(f"WHEN {literal(level)} THEN {place}" for place, level in enumerate(contract.classes, 1))
    return f"CASE {class_sql(contract, relation)} {cases} ELSE 0 END"


def class_sql(contract: Contract, relation: str = "") -> str:
    """SQL: the target as the text that names its class."""
    value = f"{relation}.{identifier(contract.target)}" if relation else identifier(contract.target)
    return level_sql(contract.columns[contract.target], value)


def only(conditions: Sequence[str]) -> str:
    """SQL: an aggregate's filter by all of the conditions; empty without one."""
    return f" FILTER (WHERE {' AND '.join(conditions)})" if conditions else ""


def aggregate_sql(contract: Contract, column: StateColumn, before: str) -> str:
    """SQL: a column of the state over the rows `h` of the history, which are before the SQL time `before`."""
    target, when, time = (
        class_sql(contract, "h"),
        f"h.{identifier(contract.timestamp)}",
        time_sql(contract, "h"),
    )
    window = column.scope.window
    since = time_before(contract, before, (window or 0) * contract.times_a_day)
    recent = [f"{when} >= {since}"] if window else []
    within = only(recent)

    def total(value: str) -> str:
        return f"CAST(coalesce(sum({value}){within}, 0) AS BIGINT)"

    match column.aggregate:
        case Rows(level):
            has_level = [] if level is None else [f"{target} = {literal(level)}"]
            return f"count({'*' if has_level else when}){only([*has_level, *recent])}"
        case LastDate():
            return f"max({when})"
        case LastTarget():
            return last_target_sql(contract, time, place_sql(contract, "h"))
        case MeasureSum(measure):
            return total(exact_sql(contract, measure, "h"))
        case KnownValues(measure):
            return f"count(h.{identifier(measure)}){within}"
        case DaySum(power, level):
            days = " * ".join([day_number_sql(contract, "h")] * power)
            return total(days if level is None else f"CASE WHEN {target} = {literal(level)} THEN {days} END")
        case DistinctValues(attribute):
            return f"count(DISTINCT {code_sql(contract, attribute, 'h')}){within}"
        case Extreme(measure, side):
            return f"{side}({exact_sql(contract, measure, 'h')}){within}"
        case LatestValue(measure):
            value = exact_sql(contract, measure, "h")
            known = only([f"h.{identifier(measure)} IS NOT NULL", *recent])
            return f"(max({{'time': {time}, 'value': {value}}}){known}).value"


def last_target_sql(contract: Contract, time: str, place: str) -> str:
    """SQL: the place of the last target: the latest time first, and of several at that time the last in the domain."""
    if contract.has_instants:
        return f"(max({{'time': {time}, 'place': {place}}}) FILTER (WHERE {time} IS NOT NULL)).place"
    size = len(contract.classes) + 1
    return f"max({time} * {size} + {place}) % {size}"  # both in one integer, which is faster


def select_state(contract: Contract, asked: str, rows: str) -> str:
    """SQL: the state of each (entity, timestamp) of the relation `asked`, from the relation `rows`.

    Only rows dated strictly before the asked time less the lag count. An entity without any has zero
    counts and null dates.
    """
    entity, when = identifier(contract.entity), identifier(contract.timestamp)
    before = time_before(contract, f"a.{when}", contract.history_lag)
    select = ", ".join(
        f"{aggregate_sql(contract, column, before)} AS {identifier(column.name)}" for column in state_columns(contract)
    )
    return (
        f"SELECT a.{entity}, a.{when}, {select} FROM (SELECT DISTINCT {entity}, {when} FROM {asked}) AS a "
        f"LEFT JOIN {rows} AS h ON h.{entity} = a.{entity} AND h.{when} < {before} GROUP BY a.{entity}, a.{when}"
    )


def select_examples(contract: Contract, rows: str) -> str:
    """SQL: the rows that become examples, each with the columns known before it and its target.

    With the grain `last_row_per_entity`, of several rows on an entity's last day the one with the largest
    measures, compared in the contract's order in their smallest unit, then the last target level, then the last
    attributes is taken. The rule depends on the content alone.
    """
    entity, when = map(identifier, (contract.entity, contract.timestamp))
    columns = identifiers(contract.named("entity", "timestamp", "target", "attribute"))
    if contract.features.grain == "every_row":
        return f"SELECT {columns} FROM {rows}"
    ties = [f"{exact_sql(contract, m, 'o')} DESC NULLS LAST" for m in contract.named("measure")]
    ties.append(f"{place_sql(contract, 'o')} DESC")
    ties += [f"{identifier(name)} DESC NULLS LAST" for name in contract.named("attribute")]
    last = f"SELECT {entity}, max({when}) AS {when} FROM {rows} GROUP BY {entity}"
    return (
        f"SELECT {columns} FROM {rows} AS o SEMI JOIN ({last}) AS last USING ({entity}, {when}) "
        f"QUALIFY row_number() OVER (PARTITION BY {entity} ORDER BY {', '.join(ties)}) = 1"
    )
