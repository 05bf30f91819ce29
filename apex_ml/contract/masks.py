"""The row checks of the contract, compiled to DuckDB SQL.

Pure text: nothing is read or run here. A file's own Arrow schema decides how each column is cast, so that a file's
types never meet another file's. The adapter runs the text, one file at a time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date

import pyarrow as pa

from apex_ml.contract.model import (
    BeforeAsOfRule,
    Column,
    Contract,
    DateFormats,
    MapValues,
    PairsRule,
    PatternCheck,
    RangeCheck,
    Severity,
    StripSuffix,
    UniqueRule,
    Use,
)

DUCKDB_TYPES = {"string": "VARCHAR", "double": "DOUBLE", "int64": "BIGINT", "date": "DATE"}
ROW_NR = "row_nr"
"""Position of a row in its file, from 0."""

_OFFSET = re.compile(r"([+-])(\d\d):?(\d\d)")
_EXACT_INTEGERS = 2**53  # beyond it a double no longer holds every integer


def quoted(name: str) -> str:
    """Quote an identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(value: str | float | date) -> str:
    """Quote a value."""
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return f"DATE '{value.isoformat()}'" if isinstance(value, date) else repr(value)


def raw(name: str) -> str:
    """Quote the name under which a column of the file travels beside its normalised value."""
    return quoted(f"raw {name}")


@dataclass(frozen=True)
class Reason:
    """One way in which a row breaks the contract. `condition` is SQL that is true for a bad row."""

    column: str
    rule: str
    severity: Severity
    condition: str


@dataclass(frozen=True)
class Normalised:
    """One declared change of values. `condition` is SQL that is true for a changed row."""

    column: str
    how: str
    condition: str


@dataclass(frozen=True)
class SchemaFindings:
    """What a file's schema adds to or lacks of the contract's."""

    missing_required: tuple[str, ...]
    filled: tuple[str, ...]
    added: tuple[str, ...]
    cast: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class RowChecks:
    """Everything needed to check one file: the staged relation, its reasons and its counters."""

    schema: SchemaFindings
    staged: str
    columns: tuple[str, ...]
    raw_columns: tuple[str, ...]
    reasons: tuple[Reason, ...]
    normalised: tuple[Normalised, ...]
    unique: tuple[tuple[str, tuple[str, ...]], ...]


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _unwrap(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _local(kind: pa.DataType, source: str) -> str:
    """SQL of a timestamp on the clock of its own zone; a zone may be a name or an offset such as -05:00."""
    if not kind.tz:
        return f"CAST({source} AS TIMESTAMP)"
    if offset := _OFFSET.fullmatch(kind.tz):
        sign, hours, minutes = offset.groups()
        return f"timezone('UTC', {source}) {sign} INTERVAL {int(hours) * 60 + int(minutes)} MINUTE"
    return f"timezone({literal(kind.tz)}, {source})"


def _cast(column: Column, kind: pa.DataType, source: str) -> str | None:
    """SQL that casts without loss, null where that is not possible; None when no value of the type can be cast."""
    text = _is_text(kind)
    number = pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind)
    if pa.types.is_null(kind):
        return f"CAST(NULL AS {DUCKDB_TYPES[column.type]})"
    if column.type == "string":
        if text:
            return source
        return f"CAST({source} AS VARCHAR)" if number or pa.types.is_boolean(kind) else None
    if column.type == "double":
        if not (text or number):
            return None
        value = f"TRY_CAST(trim({source}) AS DOUBLE)" if text else f"CAST({source} AS DOUBLE)"
        return f"CASE WHEN isfinite({value}) THEN {value} END"
    if column.type == "int64":
        if pa.types.is_integer(kind):
            return f"TRY_CAST({source} AS BIGINT)"
        if pa.types.is_floating(kind):
            exact = f"isfinite({source}) AND {source} = trunc({source}) AND abs({source}) <= {_EXACT_INTEGERS}"
            return f"CASE WHEN {exact} THEN CAST({source} AS BIGINT) END"
        if text or pa.types.is_decimal(kind):
            value = f"TRY_CAST({f'trim({source})' if text else source} AS DECIMAL(38,9))"
            return f"CASE WHEN {value} = trunc({value}) THEN TRY_CAST({value} AS BIGINT) END"
        return None
    if pa.types.is_date(kind):
        return f"CAST({source} AS DATE)"
    if pa.types.is_timestamp(kind):
        # an aware time is read on the clock of its own zone: midnight there is the day that was meant
        local = _local(kind, source)
        if "day_of_timestamp" in column.normalise:
            return f"CAST({local} AS DATE)"
        return f"CASE WHEN {local} = date_trunc('day', {local}) THEN CAST({local} AS DATE) END"
    if text:
        formats = [f for step in column.normalise if isinstance(step, DateFormats) for f in step.date_formats]
        if formats:
            return f"CAST(try_strptime(trim({source}), [{', '.join(map(literal, formats))}]) AS DATE)"
    return None


def _steps(column: Column, value: str) -> list[tuple[str, str]]:
    """The declared changes of a string, each as (name, SQL of the value after it)."""
    steps: list[tuple[str, str]] = []
    for step in column.normalise:
        if step == "trim":
            value = f"nullif(trim({value}, ' \t\n\r\u00a0'), '')"
            steps.append(("trim", value))
        elif step == "upper":
            value = f"upper({value})"
            steps.append(("upper", value))
        elif isinstance(step, StripSuffix):
            end = literal(step.strip_suffix)
            value = (
                f"CASE WHEN ends_with({value}, {end}) THEN left({value}, -{len(step.strip_suffix)}) ELSE {value} END"
            )
            steps.append((f"strip_suffix {step.strip_suffix.strip()}", value))
        elif isinstance(step, MapValues):
            cases = " ".join(f"WHEN {literal(k)} THEN {literal(v)}" for k, v in step.map.items())
            value = f"CASE {value} {cases} ELSE {value} END"
            steps.append(("map", value))
    return steps


def _column(column: Column, kind: pa.DataType, use: Use) -> tuple[str, list[Reason], list[Normalised]]:
    """SQL of the normalised value, over the file's own column; reasons and counters over the staged relation."""
    name, source = quoted(column.name), quoted(column.name)
    kind = _unwrap(kind)
    cast = _cast(column, kind, source)
    reasons: list[Reason] = []
    normalised: list[Normalised] = []
    if cast is None:
        reasons.append(
            Reason(column.name, f"type: {kind} is not {column.type}", "error", f"{raw(column.name)} IS NOT NULL")
        )
        return f"CAST(NULL AS {DUCKDB_TYPES[column.type]})", reasons, normalised
    value = cast
    staged_raw = raw(column.name)
    if column.type == "string":
        steps = _steps(column, cast)
        if steps:
            value = steps[-1][1]
            if column.domain is not None and _is_text(kind):
                # most values are levels already: they skip the string functions
                levels = ", ".join(map(literal, column.domain.levels))
                value = f"CASE WHEN {source} IN ({levels}) THEN {source} ELSE {value} END"
            how = " + ".join(step for step, _ in steps)
            changed = f"CAST({staged_raw} AS VARCHAR) IS DISTINCT FROM {name}"
            normalised.append(Normalised(column.name, how, changed))
    else:
        lost = f"{staged_raw} IS NOT NULL AND {name} IS NULL"
        reasons.append(Reason(column.name, f"type: not a {column.type} without loss", "error", lost))
        if column.type == "date" and pa.types.is_timestamp(kind) and "day_of_timestamp" in column.normalise:
            local = _local(kind, staged_raw)
            changed = f"{local} <> date_trunc('day', {local})"
            normalised.append(Normalised(column.name, "day_of_timestamp", changed))
        elif column.type == "date" and _is_text(kind):
            normalised.append(Normalised(column.name, "date_formats", f"{name} IS NOT NULL"))
    if not column.nullable.on(use):
        null = f"{name} IS NULL" if column.type == "string" else f"{staged_raw} IS NULL"
        reasons.append(Reason(column.name, "not_null", "error", null))
    if column.domain is not None:
        levels = ", ".join(map(literal, column.domain.levels))
        severity: Severity = "error" if column.domain.closed.on(use) else "warning"
        reasons.append(
            Reason(
                column.name, f"domain: one of {', '.join(column.domain.levels)}", severity, f"{name} NOT IN ({levels})"
            )
        )
    for check in column.checks:
        if isinstance(check, PatternCheck):
            bad = f"NOT regexp_full_match({name}, {literal(check.regex)})"
            reasons.append(Reason(column.name, f"pattern: {check.regex}", check.severity.on(use), bad))
        elif isinstance(check, RangeCheck):
            bounds = []
            if check.min is not None:
                bounds.append((f"{name} < {literal(check.min)}", f">= {check.min}"))
            if check.max is not None:
                bounds.append((f"{name} > {literal(check.max)}", f"<= {check.max}"))
            rule = "range: " + " and ".join(text for _, text in bounds)
            reasons.append(Reason(column.name, rule, check.severity.on(use), " OR ".join(sql for sql, _ in bounds)))
    return value, reasons, normalised


def compile_row_checks(contract: Contract, use: Use, schema: pa.Schema, as_of: date | None) -> RowChecks:
    """Compile the checks of one file from its Arrow schema.

    `staged` is a SELECT over a relation named `source` that has the file's columns and `file_row_number`; it yields
    `row_nr`, every column of the contract normalised, and the file's own values as ``raw <column>``. Conditions of
    reasons and counters are SQL over the staged relation and may be null, which means false. Without `as_of` the rules
    that need it are left out.
    """
    select: list[str] = []
    reasons: list[Reason] = []
    normalised: list[Normalised] = []
    filled: list[str] = []
    missing: list[str] = []
    casts: list[tuple[str, str, str]] = []
    for column in contract.columns.values():
        index = schema.get_field_index(column.name)
        if index < 0:
            (missing if column.required.on(use) else filled).append(column.name)
            select.append(f"CAST(NULL AS {DUCKDB_TYPES[column.type]}) AS {quoted(column.name)}")
            continue
        kind = schema.field(index).type
        value, why, changes = _column(column, kind, use)
        select.append(f"{value} AS {quoted(column.name)}")
        reasons += why
        normalised += changes
        plain = _unwrap(kind)
        as_expected = plain == column.arrow_type or (
            column.type == "date" and pa.types.is_timestamp(plain) and not plain.tz
        )
        if not (as_expected or (column.type == "string" and _is_text(plain))):
            casts.append((column.name, str(plain), column.type))
    unique: list[tuple[str, tuple[str, ...]]] = []
    for rule in contract.rules:
        severity = rule.severity.on(use)
        if isinstance(rule, PairsRule):
            first, second = map(quoted, rule.columns)
            pairs = ", ".join(f"({literal(k)}, {literal(v)})" for k, values in rule.allowed.items() for v in values)
            # a value outside the first column's pairs is that column's own fault, told once
            known = ", ".join(map(literal, rule.allowed))
            bad = f"{first} IN ({known}) AND {second} IS NOT NULL AND ({first}, {second}) NOT IN ({pairs})"
            reasons.append(Reason(" + ".join(rule.columns), f"{rule.name}: {rule.description}", severity, bad))
        elif isinstance(rule, BeforeAsOfRule) and as_of is not None:
            bad = f"{quoted(rule.columns[0])} >= {literal(as_of)}"
            reasons.append(Reason(rule.columns[0], f"{rule.name}: before {as_of}", severity, bad))
        elif isinstance(rule, UniqueRule) and severity == "error":
            unique.append((rule.name, tuple(contract.columns) if rule.columns == "all" else rule.columns))
    known_names = set(contract.columns)
    raw_columns = tuple(n for n in schema.names)
    raws = [f"{quoted(n)} AS {raw(n)}" for n in raw_columns]
    staged = f"SELECT file_row_number AS {ROW_NR}, {', '.join(select + raws)} FROM source"
    return RowChecks(
        schema=SchemaFindings(
            tuple(missing), tuple(filled), tuple(n for n in schema.names if n not in known_names), tuple(casts)
        ),
        staged=staged,
        columns=tuple(contract.columns),
        raw_columns=raw_columns,
        reasons=tuple(reasons),
        normalised=tuple(normalised),
        unique=tuple(unique),
    )
