"""The row checks of the contract, compiled to DuckDB SQL.

This module only builds text. A file's own Arrow schema decides how each column is cast, so that the types of two files
never meet. The adapter runs the text, one file at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from functools import partial
from types import MappingProxyType

import pyarrow as pa

from apex_ml.contract.column_names import Matched, match_columns
from apex_ml.contract.columns import Column
from apex_ml.contract.conditions import NOT_NULL, IsNull, column_rules, passes_only_normal_forms, row_rules
from apex_ml.contract.model import Contract
from apex_ml.contract.names import IN_DOUBT, ROW_NR
from apex_ml.contract.per_use import Severity, Use
from apex_ml.contract.rules import UniqueRule
from apex_ml.sql.casts import NOT_FINITE, cast_sql, lost_times, not_of_type, with_loss
from apex_ml.sql.conditions import condition_sql
from apex_ml.sql.derived import (
    OUTSIDE_YEARS,
    DerivedValue,
    derived_values,
    not_finite_sql,
    outside_years_sql,
    select_inputs,
)
from apex_ml.sql.file_types import as_text, duckdb_type, is_binary, is_text, unwrap
from apex_ml.sql.normal_forms import Normalised, normalised, not_normal_sql, text_steps_sql
from apex_ml.sql.parquet import place_name
from apex_ml.sql.quote import identifier
from apex_ml.sql.schema_findings import SchemaFindings, compare_schema


def raw(place: int) -> str:
    """Quote the name under which a column of the file, by its place, travels beside its normalised value.

    The names in a file may differ only in case or appear twice, which SQL does not allow.
    """
    return identifier(f"raw {place}")


def undecodable(place: int) -> str:
    """Quote the name of a column with the values, as text for people, that could not be decoded, by its place."""
    return identifier(f"undecodable {place}")


@dataclass(frozen=True)
class Reason:
    """One way in which a row breaks the contract. `condition` is SQL that is true for a bad row.

    `column` is the label in reports, `columns` those whose values are shown (none: the labelled one).
    """

    column: str
    rule: str
    severity: Severity
    condition: str
    columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class UniqueColumns:
    """Columns whose values together must be unique in a file."""

    name: str
    label: str
    severity: Severity
    columns: tuple[str, ...]


@dataclass(frozen=True)
class RawColumn:
    """A column of the file. `source` is SQL of its value, `column` the contract's name for it, if any."""

    name: str
    kind: pa.DataType
    source: str
    column: str | None = None
    undecodable: str | None = None
    """SQL of its value for people where it could not be decoded."""


@dataclass(frozen=True)
class RowChecks:
    """Everything needed to check one file. Built by :func:`compile_row_checks`.

    `source` names the file's columns by their places; `staged`, `plain` and `doubt` are SQL over a relation of that
    name, which holds the values of `derived`, too. A row for which `doubt` is not true is normalised in
    the file and breaks no rule of `reasons`: `plain`, which only casts, gives the same values for it as `staged`.
    """

    schema: SchemaFindings
    source: tuple[str, ...]
    staged: str
    plain: str
    doubt: str
    columns: tuple[str, ...]
    raw_columns: tuple[RawColumn, ...]
    reasons: tuple[Reason, ...]
    normalised: tuple[Normalised, ...]
    unique: tuple[UniqueColumns, ...]
    derived: tuple[DerivedValue, ...] = ()
    select_inputs: Callable[[str], str] = str
    """A query of what the expressions of derived columns read, over a relation of the file's rows."""


def _reasons(
    column: Column,
    kind: pa.DataType,
    use: Use,
    source: str,
    name: str,
    bad: str | None,
    derived: DerivedValue | None = None,
) -> list[Reason]:
    """The possible faults of a column's value, by its own value `source` and the normalised one, `name`.

    `bad` is SQL of the value where it could not be decoded, when the file has such values.
    """
    reasons = []
    if derived is not None:
        reasons.append(Reason(column.name, derived.rule, "error", derived.failed, derived.columns))
        if pa.types.is_floating(kind):
            not_finite = not_finite_sql(kind, source)
            reasons.append(Reason(column.name, derived.not_finite_rule, "error", not_finite, derived.columns))
    there = f"({source} IS NOT NULL OR {bad} IS NOT NULL)" if bad else f"{source} IS NOT NULL"
    null = f"NOT {there}" if bad else f"{source} IS NULL"
    if column.type != "string":
        lost = f"{there} AND {name} IS NULL"
        if derived is not None and pa.types.is_floating(kind):
            lost += f" AND NOT {not_finite_sql(kind, source)}"
        for why, condition in lost_times(column, kind, source):
            reasons.append(Reason(column.name, why, "error", f"{lost} AND ({condition})"))
            lost += f" AND NOT coalesce(({condition}), false)"
        reasons.append(Reason(column.name, with_loss(column, kind), "error", lost))
    else:
        null = f"{name} IS NULL"
        if bad or is_binary(kind):
            damaged = f"{bad} IS NOT NULL" if bad else f"{source} IS NOT NULL AND {as_text(kind, source)} IS NULL"
            text = "encoding: cannot be decoded; write it as text in UTF-8"
            reasons.append(Reason(column.name, text, "error", damaged))
            null += f" AND NOT ({damaged})"
    outside = None
    if derived is not None:
        null += f" AND NOT {derived.failed} AND NOT {not_finite_sql(kind, source)}"
        if (outside := outside_years_sql(column, name)) is not None:
            reasons.append(Reason(column.name, OUTSIDE_YEARS, "error", outside, derived.columns))
    for rule in column_rules(column, use):
        condition = null if isinstance(rule.broken, IsNull) else condition_sql(rule.broken, {column.name: name})
        if outside is not None:
            condition = f"({condition}) AND NOT coalesce({outside}, false)"
        reasons.append(Reason(column.name, rule.text, rule.severity, condition))
    return reasons


@dataclass(frozen=True)
class _Compiled:
    """One column: SQL over source of its value, of its value in a row without doubt, and of the doubt."""

    value: str
    plain: str
    doubt: list[str]
    reasons: list[Reason]
    normalised: list[Normalised]


def _compile(
    column: Column,
    kind: pa.DataType,
    use: Use,
    source: str,
    staged_raw: str,
    bad: str | None = None,
    derived: DerivedValue | None = None,
    decimal: str = ".",
) -> _Compiled:
    name = identifier(column.name)
    cast = cast_sql(column, kind, source, decimal)
    if cast is None:
        # nulls stay nulls, which may be a fault; no value can be used
        nothing = f"CAST(NULL AS {duckdb_type(column)})"
        there = f"({staged_raw} IS NOT NULL OR {bad} IS NOT NULL)" if bad else f"{staged_raw} IS NOT NULL"
        reasons = [Reason(column.name, not_of_type(column, kind), "error", there)]
        if column.nullable.on(use):
            doubt = [f"{source} IS NOT NULL"] + ([f"{bad} IS NOT NULL"] if bad else [])
            return _Compiled(nothing, nothing, doubt, reasons, [])
        reasons.append(Reason(column.name, NOT_NULL, "error", f"NOT {there}"))
        return _Compiled(nothing, nothing, ["true"], reasons, [])
    steps = text_steps_sql(column, cast) if column.type == "string" else []
    value = steps[-1][1] if steps else cast
    plain = f"({value})"
    doubt = []
    if column.type == "string" and is_text(kind):
        plain = source
        if steps:
            odd = not_normal_sql(column, source, value)
            value = f"CASE WHEN {odd} THEN {value} ELSE {source} END"
            doubt += [] if passes_only_normal_forms(column) else [odd]
    elif column.type == "double" and pa.types.is_floating(kind):
        plain = f"CAST({source} AS DOUBLE)"
        doubt.append(f"NOT isfinite({source})")
    else:
        doubt += [n.condition for n in normalised(column, kind, source, plain, bad)]
    doubt += [r.condition for r in _reasons(column, kind, use, source, plain, bad, derived)]
    staged = _reasons(column, kind, use, staged_raw, name, bad, derived)
    if column.type == "string" and pa.types.is_floating(kind):
        doubt.append(f"NOT isfinite({source})")
        if derived is None:
            staged.insert(0, Reason(column.name, NOT_FINITE, "error", f"NOT isfinite({staged_raw})"))
    return _Compiled(value, plain, doubt, staged, normalised(column, kind, staged_raw, name, bad))


def _unique_columns(contract: Contract, use: Use) -> tuple[UniqueColumns, ...]:
    unique = []
    for rule in contract.rules:
        if isinstance(rule, UniqueRule):
            columns = tuple(contract.columns) if rule.columns == "all" else tuple(rule.columns)
            label = "all columns" if rule.columns == "all" else " + ".join(columns)
            unique.append(UniqueColumns(rule.name, label, rule.severity.on(use), columns))
    return tuple(unique)


def compile_row_checks(
    contract: Contract,
    use: Use,
    schema: pa.Schema,
    as_of: date | None,
    recovered: frozenset[int] = frozenset(),
    derived: Mapping[str, pa.DataType] = MappingProxyType({}),
    decimal: str = ".",
) -> RowChecks:
    """Compile the checks of one file from its Arrow schema.

    `staged` yields `row_nr`, every column of the contract normalised, and the file's own values as ``raw <place>``.
    Conditions of reasons and counters are SQL over the staged relation and may be null, which means false. Without
    `as_of` the rules that need it are left out. A column of the contract that the file has twice counts as missing.
    `recovered` are the places of columns with values that could not be decoded: the source has null in their place,
    and beside it a column named by :func:`undecodable`. `derived` are the types of the derived columns' expressions,
    by column; their values have the places behind those of the file. `decimal` is the decimal sign of numbers in text.
    """
    matched = match_columns(contract, schema.names)
    compiled = {
        column.name: _compile_column(column, use, schema, matched.places.get(column.name), recovered, decimal)
        for column in contract.file_columns.values()
    }
    sources = {name: c.value for name, c in compiled.items()}
    values_of = derived_values(contract, derived, len(schema))
    for value in values_of:
        column, place = contract.columns[value.column], value.place
        source = identifier(place_name(place))
        compiled[value.column] = _compile(column, value.kind, use, source, raw(place), derived=value)
    compiled = {name: compiled[name] for name in contract.columns}
    reasons = [reason for column in compiled.values() for reason in column.reasons]
    doubt = [condition for column in compiled.values() for condition in column.doubt]
    for rule in row_rules(contract, use, as_of):
        condition = condition_sql(rule.broken, {name: identifier(name) for name in rule.columns})
        reasons.append(Reason(rule.label, rule.text, rule.severity, condition, rule.columns))
        doubt.append(condition_sql(rule.broken, {name: compiled[name].plain for name in rule.columns}))
    in_doubt = " OR ".join(f"({d})" for d in dict.fromkeys(doubt)) or "false"
    values = [f"{c.value} AS {identifier(name)}" for name, c in compiled.items()]
    plain = [f"{c.plain} AS {identifier(name)}" for name, c in compiled.items()]
    raw_columns = _raw_columns(schema, matched, recovered)
    raw_columns += tuple(RawColumn(v.column, v.kind, raw(v.place), v.column) for v in values_of)
    raws = [f"{identifier(place_name(place))} AS {c.source}" for place, c in enumerate(raw_columns)]
    raws += [undecodable(place) for place in sorted(recovered)]
    raws += [value.failed for value in values_of]
    return RowChecks(
        schema=compare_schema(contract, use, schema, matched),
        source=tuple(map(place_name, range(len(schema)))),
        staged=f"SELECT {ROW_NR}, {', '.join(values + raws)} FROM source",
        plain=f"SELECT {', '.join([ROW_NR, *plain])}, ({in_doubt}) AS {identifier(IN_DOUBT)} FROM source",
        doubt=in_doubt,
        columns=tuple(contract.columns),
        raw_columns=raw_columns,
        reasons=tuple(reasons),
        normalised=tuple(n for c in compiled.values() for n in c.normalised),
        unique=_unique_columns(contract, use),
        derived=values_of,
        select_inputs=partial(select_inputs, contract, sources),
    )


def _compile_column(
    column: Column, use: Use, schema: pa.Schema, place: int | None, recovered: frozenset[int], decimal: str
) -> _Compiled:
    """Compile a column by its place in the file; without a place its values are null."""
    if place is None:
        nothing = f"CAST(NULL AS {duckdb_type(column)})"
        return _Compiled(nothing, nothing, [], [], [])
    bad = undecodable(place) if place in recovered else None
    source, kind = identifier(place_name(place)), unwrap(schema.field(place).type)
    return _compile(column, kind, use, source, raw(place), bad, decimal=decimal)


def _raw_columns(schema: pa.Schema, matched: Matched, recovered: frozenset[int]) -> tuple[RawColumn, ...]:
    """The columns of the file, each with the contract's name for it."""
    names = {place: name for name, place in matched.places.items()}
    return tuple(
        RawColumn(f.name, f.type, raw(place), names.get(place), undecodable(place) if place in recovered else None)
        for place, f in enumerate(schema)
    )
