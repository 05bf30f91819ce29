"""The values of derived columns, computed from the typed and normalised values of other columns: DuckDB SQL.

An expression that fails on a row, as for the 30th of February, does not stop the query. Its value is kept in a list:
null instead of the list means that the expression failed, a null in the list that its value is null.

The inputs of the expressions come from a table. DuckDB would not compute the other parts of an expression where one of
its inputs is null in all rows of a part of a file, so that it would depend on the other rows whether it fails.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from apex_ml.contract.columns import Column
from apex_ml.contract.expressions import shown_expression
from apex_ml.contract.model import Contract
from apex_ml.sql.file_types import duckdb_type
from apex_ml.sql.normal_forms import lost_rule_sql, normalised_sql
from apex_ml.sql.parquet import place_name
from apex_ml.sql.quote import identifier, literal

OUTSIDE_YEARS = "type: not in the years 1 to 9999"
"""The rule that a computed day breaks which DuckDB has, and Python and JSON have not."""


@dataclass(frozen=True)
class DerivedValue:
    """The value of a derived column beside a file's own columns. `kind` is the type of the expression."""

    column: str
    place: int
    """The place of the value behind those of the file's columns."""
    kind: pa.DataType
    expression: str
    """SQL of the expression, over the columns of :func:`select_inputs`."""
    columns: tuple[str, ...]
    """The columns that the expression reads."""
    rule: str
    """What a row breaks on which the expression fails."""
    not_finite_rule: str
    """What a row breaks for which the expression gives NaN or infinity."""

    @property
    def name(self) -> str:
        """Quoted name of the value."""
        return identifier(place_name(self.place))

    @property
    def failed(self) -> str:
        """SQL that is true where the expression fails."""
        return identifier(f"failed {self.place}")


def failed_rule(column: Column) -> str:
    """The rule that a row breaks on which the expression of a derived column fails, with the remedy."""
    shown = shown_expression(column.derive)
    return f"derive: {shown} fails on these values; correct them, or let the expression allow for them"


def not_finite_rule(column: Column) -> str:
    """The rule that a row breaks for which the expression of a derived column gives NaN or infinity."""
    shown = shown_expression(column.derive)
    return f"derive: {shown} gives no finite number; where it divides, write nullif(divisor, 0), which gives null"


def not_finite_sql(kind: pa.DataType, value: str) -> str:
    """SQL that is true where the value of an expression of a type is NaN or infinite."""
    return f"coalesce(NOT isfinite({value}), false)" if pa.types.is_floating(kind) else "false"


def outside_years_sql(column: Column, value: str) -> str | None:
    """SQL that is true for a day or a time that Python and JSON do not have; None for a column of another type."""
    if column.type == "date":
        return f"{value} NOT BETWEEN DATE '0001-01-01' AND DATE '9999-12-31'"
    if column.type != "timestamp":
        return None
    word, zone = ("TIMESTAMP", "") if column.timezone is None else ("TIMESTAMPTZ", "+00:00")
    return f"{value} NOT BETWEEN {word} '0001-01-01 00:00:00{zone}' AND {word} '9999-12-31 23:59:59.999999{zone}'"


def _input_name(column: str) -> str:
    return identifier(f"input {column}")


def _input_sql(column: Column, value: str) -> str:
    """SQL of a column's value as expressions read it: of its type, an instant on the clock of the column's zone.

    There is one zero: values of requests are kept by how they compare, and then a zero has no sign.
    """
    if column.type == "double":
        return f"CASE WHEN {value} = 0 THEN CAST(0 AS DOUBLE) ELSE {value} END"
    if column.type == "timestamp" and column.timezone is not None:
        return f"timezone({literal(column.timezone)}, CAST({value} AS TIMESTAMP WITH TIME ZONE))"
    return f"CAST({value} AS {duckdb_type(column)})"


def select_inputs(contract: Contract, values: Mapping[str, str], relation: str) -> str:
    """The columns that expressions read, by SQL of their values over a relation, one row for each of its rows."""
    names = contract.sources(*{column.role for column in contract.derived.values()})
    inputs = (f"{_input_sql(contract.columns[name], values[name])} AS {_input_name(name)}" for name in names)
    return f"SELECT {', '.join(inputs)} FROM {relation}"


def _expression_sql(column: Column, contract: Contract) -> str:
    expression = column.expression
    assert expression is not None  # a derived column has one
    sources = expression.columns(contract.columns)
    return expression.sql({written: _input_name(name) for written, name in sources.items()})


def derived_values(contract: Contract, kinds: Mapping[str, pa.DataType], first_place: int) -> tuple[DerivedValue, ...]:
    """The derived columns of a contract, by the types of their expressions."""
    derived = []
    for place, column in enumerate(contract.derived.values(), first_place):
        expression = column.expression
        assert expression is not None
        sources = tuple(expression.columns(contract.columns).values())
        sql = _expression_sql(column, contract)
        rules = failed_rule(column), not_finite_rule(column)
        derived.append(DerivedValue(column.name, place, kinds[column.name], sql, sources, *rules))
    return tuple(derived)


def select_derived(derived: Sequence[DerivedValue], inputs: str) -> str:
    """The derived values, and whether each expression failed, over the columns of :func:`select_inputs`."""
    tried = ", ".join(f"TRY([{value.expression}]) AS {_tried(value)}" for value in derived)
    values = ", ".join(
        f"{_tried(value)}[1] AS {value.name}, {_tried(value)} IS NULL AS {value.failed}" for value in derived
    )
    return f"SELECT {values} FROM (SELECT {tried} FROM {inputs})"


def _tried(value: DerivedValue) -> str:
    return identifier(f"tried {value.place}")


def select_expressions(contract: Contract, columns: Iterable[Column]) -> str:
    """No row of the expressions of derived columns; the types of the result are theirs."""
    values = {name: f"CAST(NULL AS {duckdb_type(c)})" for name, c in contract.file_columns.items()}
    selected = (f"({_expression_sql(c, contract)}) AS {identifier(c.name)}" for c in columns)
    inputs = select_inputs(contract, values, "(SELECT 1)")
    return f"SELECT {', '.join(selected)} FROM ({inputs}) LIMIT 0"


def select_row_values(
    contract: Contract, columns: Iterable[Column], values: Mapping[str, str]
) -> tuple[str, dict[str, str]]:
    """SQL of what the expressions of derived columns read, and over it of each one's value, null where it fails."""
    inputs = (f"{_input_sql(contract.columns[name], value)} AS {_input_name(name)}" for name, value in values.items())
    return ", ".join(inputs), {column.name: f"TRY({_expression_sql(column, contract)})" for column in columns}


def select_values(contract: Contract, kinds: Mapping[str, pa.DataType], relation: str) -> str:
    """For each derived column its value, the rule by which it is lost, whether the expression failed, is not finite.

    The relation has the other columns with their types and names. A value is lost where it cannot be cast. A date is
    given as days since 1970, and a time as microseconds, as DuckDB has more years than Python.
    """
    values = {name: identifier(name) for name in contract.file_columns}
    derived = derived_values(contract, kinds, len(values))
    selected: list[str] = []
    for value in derived:
        column = contract.columns[value.column]
        result = normalised_sql(column, value.kind, value.name)
        lost = lost_rule_sql(column, value.kind, value.name, result)
        numbers = {"date": f"date_diff('day', DATE '1970-01-01', {result})", "timestamp": f"epoch_us({result})"}
        not_finite = not_finite_sql(value.kind, value.name)
        selected += [numbers.get(column.type, result), lost, value.failed, not_finite]
    inputs = f"({select_inputs(contract, values, relation)})"
    return f"SELECT {', '.join(selected)} FROM ({select_derived(derived, inputs)})"
