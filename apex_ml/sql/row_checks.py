"""The row checks of the contract, compiled to DuckDB SQL.

Pure text: nothing is read or run here. A file's own Arrow schema decides how each column is cast, so that a file's
types never meet another file's. The adapter runs the text, one file at a time.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import pyarrow as pa

from apex_ml.contract.checks import PatternCheck, RangeCheck
from apex_ml.contract.columns import Column
from apex_ml.contract.model import Contract
from apex_ml.contract.names import IN_DOUBT, ROW_NR
from apex_ml.contract.normalisation import DateFormats, MapValues, StripSuffix
from apex_ml.contract.per_use import Severity, Use
from apex_ml.contract.rules import BeforeAsOfRule, PairsRule, UniqueRule
from apex_ml.sql.quote import identifier, literal, literals
from apex_ml.text import INVISIBLE_RE2, NO_NUL, folded

DUCKDB_TYPES = {"string": "VARCHAR", "double": "DOUBLE", "int64": "BIGINT", "date": "DATE"}

_OFFSET = re.compile(r"([+-])(\d\d):?(\d\d)")
_EXACT_INTEGERS = 2**53  # beyond it a double no longer holds every integer
WIDEST_DECIMAL = 38  # wider ones are read as double, which does not hold their digits
_WIDEST_INTEGER = "1.7014118346046923e38"  # 2^127: a smaller whole double fits DuckDB's widest integer, digit by digit
_WANTED = {"string": "text", "double": "numbers", "int64": "whole numbers", "date": "dates or timestamps"}
_UNSEEN_ENDS = f"^[{INVISIBLE_RE2}]+|[{INVISIBLE_RE2}]+$"


def raw(place: int) -> str:
    """Quote the name under which a column of the file, by its place, travels beside its normalised value.

    Names of a file may differ by case only or stand twice, which SQL does not allow.
    """
    return identifier(f"raw {place}")


def undecodable(place: int) -> str:
    """Quote the name of a column with the values, as text for people, that could not be decoded, by its place."""
    return identifier(f"undecodable {place}")


@dataclass(frozen=True)
class Reason:
    """One way in which a row breaks the contract. `condition` is SQL that is true for a bad row.

    `column` is the label in reports, `columns` those whose values are told (none: the labelled one).
    """

    column: str
    rule: str
    severity: Severity
    condition: str
    columns: tuple[str, ...] = ()


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
    near: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Columns of the contract that are not there, with the names in the file that differ only as `folded` says."""
    ambiguous: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Columns of the contract with all the names in the file that may mean them, where these are several."""


@dataclass(frozen=True)
class UniqueColumns:
    """Columns whose values together stand once in a file."""

    name: str
    label: str
    severity: Severity
    columns: tuple[str, ...]


@dataclass(frozen=True)
class RawColumn:
    """A column of the file as it came; `source` is SQL of its value, `column` the contract's name for it, if any."""

    name: str
    kind: pa.DataType
    source: str
    column: str | None = None
    undecodable: str | None = None
    """SQL of its value for people where it could not be decoded."""


@dataclass(frozen=True)
class RowChecks:
    """Everything needed to check one file. Made by :func:`compile_row_checks`.

    `source` names the file's columns by their places; `staged`, `plain` and `doubt` are SQL over a relation of that
    name. A row for which `doubt` is not true came normalised and breaks no rule of `reasons`, so that `plain`, which
    only casts, gives the same values for it as `staged`.
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


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_binary(kind: pa.DataType) -> bool:
    tests = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary)
    return any(test(kind) for test in tests)


def _unwrap(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _as_text(kind: pa.DataType, source: str) -> str | None:
    """SQL of a value that is text however the file annotates it, null where its bytes are no UTF-8; else None."""
    if _is_text(kind):
        return source
    if _is_binary(kind):
        return f"TRY(decode({source}))"
    return f"CAST({source} AS VARCHAR)" if isinstance(kind, pa.JsonType | pa.UuidType) else None


def holds_text(kind: pa.DataType) -> bool:
    """Tell whether values of a type are bytes that may be read as text."""
    return not isinstance(kind, pa.UuidType) and _as_text(kind, "") is not None


def _named(kind: pa.DataType) -> str:
    """A type of a file in words for people."""
    return str(kind.type_name if isinstance(kind, pa.OpaqueType) else kind)


def local_time(kind: pa.DataType, source: str) -> str:
    """SQL of a timestamp on the clock of its own zone; a zone may be a name or an offset such as -05:00.

    Of a kind with a zone the values may be stored with the mark of a zone or without one, as INT96 is.
    """
    if not kind.tz:
        return f"CAST({source} AS TIMESTAMP)"
    instant = source if kind.unit == "ns" else f"make_timestamptz(epoch_us({source}))"
    # an instant at the very end of what 64 bits hold has no clock time in most zones
    return f"TRY({zone_sql(kind.tz, instant)})"


def zone_sql(zone: str, instant: str) -> str:
    """SQL of an instant on the clock of a zone, given by its name or as an offset."""
    if offset := _OFFSET.fullmatch(zone):
        sign, hours, minutes = offset.groups()
        return f"timezone('UTC', {instant}) {sign} INTERVAL {int(hours) * 60 + int(minutes)} MINUTE"
    return f"timezone({literal(zone)}, {instant})"


def number_text(kind: pa.DataType, source: str) -> str:
    """SQL of a number as text, null for NaN and infinity. One number has one text, whatever type it comes in.

    A whole number has neither point nor exponent; another one has its shortest decimal digits, without exponent.
    :func:`apex_ml.contract.requests.number_text` gives the same text for a number of JSON.
    """
    text = f"CAST({source} AS VARCHAR)"
    wide = pa.types.is_decimal(kind) and kind.precision > WIDEST_DECIMAL
    if pa.types.is_decimal(kind) and not wide:
        return f"regexp_replace({text}, '[.]?0+$', '')" if kind.scale > 0 else text
    if not (pa.types.is_floating(kind) or wide):
        return text
    sign = f"CASE WHEN {source} < 0 THEN '-' ELSE '' END"
    digits = f"replace(regexp_extract({text}, '^-?([0-9.]+)e', 1), '.', '')"
    exponent = f"CAST(regexp_extract({text}, 'e[+-]?([0-9]+)$', 1) AS INTEGER)"
    return (
        f"CASE WHEN NOT isfinite({source}) THEN NULL"
        f" WHEN {source} = trunc({source}) AND abs({source}) < {_WIDEST_INTEGER}"
        f" THEN CAST(TRY_CAST({source} AS HUGEINT) AS VARCHAR)"
        f" WHEN contains({text}, 'e-') THEN {sign} || '0.' || repeat('0', {exponent} - 1) || {digits}"
        f" WHEN contains({text}, 'e') THEN {sign} || rpad({digits}, {exponent} + 1, '0')"
        f" ELSE {text} END"
    )


def _cast(column: Column, kind: pa.DataType, source: str) -> str | None:
    """SQL that casts without loss, null where that is not possible; None when no value of the type can be cast."""
    text = _as_text(kind, source) if column.type == "string" or holds_text(kind) else None
    number = pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind)
    if pa.types.is_null(kind):
        return f"CAST(NULL AS {DUCKDB_TYPES[column.type]})"
    if column.type == "string":
        return text or (number_text(kind, source) if number or pa.types.is_boolean(kind) else None)
    if column.type == "double":
        if not (text or number):
            return None
        value = f"TRY_CAST(trim({text}) AS DOUBLE)" if text else f"CAST({source} AS DOUBLE)"
        exact = f"isfinite({value})"
        if pa.types.is_integer(kind) and kind.bit_width == 64:
            exact = f"{source} BETWEEN -{_EXACT_INTEGERS} AND {_EXACT_INTEGERS}"
        elif pa.types.is_decimal(kind) and kind.precision <= WIDEST_DECIMAL:
            exact = f"TRY_CAST({value} AS DECIMAL({kind.precision},{max(kind.scale, 0)})) = {source}"
        return f"CASE WHEN {exact} THEN {value} END"
    if column.type == "int64":
        if pa.types.is_integer(kind):
            return f"TRY_CAST({source} AS BIGINT)" if kind == pa.uint64() else f"CAST({source} AS BIGINT)"
        if pa.types.is_floating(kind):
            exact = f"isfinite({source}) AND {source} = trunc({source}) AND abs({source}) <= {_EXACT_INTEGERS}"
            return f"CASE WHEN {exact} THEN CAST({source} AS BIGINT) END"
        if pa.types.is_decimal(kind):
            return f"CASE WHEN {source} = trunc({source}) THEN TRY_CAST({source} AS BIGINT) END"
        if text:
            whole = f"regexp_full_match(trim({text}), '[+-]?[0-9]+([.]0*)?')"
            return f"CASE WHEN {whole} THEN TRY_CAST(split_part(trim({text}), '.', 1) AS BIGINT) END"
        return None
    if pa.types.is_date(kind):
        value = f"CAST({source} AS DATE)"
        return value if _is_bounded(column) else f"CASE WHEN isfinite({source}) THEN {value} END"
    if pa.types.is_timestamp(kind):
        # an aware time is read on the clock of its own zone: midnight there is the day that was meant
        local = local_time(kind, source)
        value = f"CAST({local} AS DATE)"
        tests = [] if _is_bounded(column) else [f"isfinite({local})"]
        if "day_of_timestamp" not in column.normalise:
            tests.append(f"{local} = date_trunc('day', {local})")
        return f"CASE WHEN {' AND '.join(tests)} THEN {value} END" if tests else value
    if text and (formats := _formats(column)):
        return f"CAST(try_strptime(trim({text}), [{literals(formats)}]) AS DATE)"
    return None


def _is_bounded(column: Column) -> bool:
    """Tell whether ranges bar the infinite dates, with which DuckDB stands in for what it cannot hold."""
    severe = [c for c in column.checks if isinstance(c, RangeCheck) and c.severity.train == c.severity.score == "error"]
    return any(c.min is not None for c in severe) and any(c.max is not None for c in severe)


def _formats(column: Column) -> list[str]:
    return [f for step in column.normalise if isinstance(step, DateFormats) for f in step.date_formats]


def _not_of_type(column: Column, kind: pa.DataType) -> str:
    """The rule that values of a type break when none of them can be cast, with what to do about it."""
    rule = f"type: {_named(kind)} is not {column.type}"
    if column.type == "date" and holds_text(kind):
        return f"{rule}; add date_formats to its normalise in the contract, or deliver dates"
    return f"{rule}; deliver {_WANTED[column.type]}"


def _with_loss(column: Column, kind: pa.DataType) -> str:
    """The rule that a value breaks when it can be cast only with loss, with what to do about it."""
    rule = f"type: not {column.type} without loss"
    if column.type == "date" and pa.types.is_timestamp(kind) and "day_of_timestamp" not in column.normalise:
        return f"{rule}; it has a time of day: add day_of_timestamp to its normalise in the contract"
    if column.type == "date" and holds_text(kind):
        return f"{rule}; write it as {' or '.join(_formats(column))}"
    return rule


def _steps(column: Column, value: str) -> list[tuple[str, str]]:
    """The declared changes of a string, each as (name, SQL of the value after it)."""
    steps: list[tuple[str, str]] = []
    for step in column.normalise:
        if step == "trim":
            value = f"nullif(regexp_replace({value}, '{_UNSEEN_ENDS}', '', 'g'), '')"
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


def _trims_or_uppers(column: Column) -> bool:
    """Tell whether a column is trimmed or brought into upper case, and nothing else."""
    return all(step in ("trim", "upper") for step in column.normalise)


def _matches_are_normal(column: Column) -> bool:
    """Tell whether a pattern lets pass only what is trimmed and in upper case: all of it lies between '!' and '`'."""
    return _trims_or_uppers(column) and any(
        isinstance(check, PatternCheck)
        and re.fullmatch("[!-`]+", check.regex)
        and not set(check.regex) & set(".\\^$")
        and not re.fullmatch(check.regex, "")
        for check in column.checks
    )


def _not_normal(column: Column, source: str, value: str) -> str:
    """SQL that is true when a string may not be in its normal form. Much cheaper than to normalise it.

    White space and control characters sort before '!', and so does the empty string.
    """
    if not column.normalise:
        return "false"
    if column.domain is not None:
        return f"{source} NOT IN ({literals(column.domain.levels)})"
    if not _trims_or_uppers(column):
        return f"{source} IS DISTINCT FROM {value}"
    tests = []
    if "trim" in column.normalise:
        beyond = f"{source} > '~' OR {source}[-1] > '~'"
        unseen = f"regexp_matches({source}, '{_UNSEEN_ENDS}')"
        tests += [f"{source} < '!'", f"{source}[-1] < '!'", f"CASE WHEN {beyond} THEN {unseen} ELSE false END"]
    if "upper" in column.normalise:
        tests.append(f"{source} <> upper({source})")
    return " OR ".join(tests)


def _normalised(column: Column, kind: pa.DataType, source: str, name: str, bad: str | None) -> list[Normalised]:
    """The declared changes of a column's values, counted by its own value `source` and the value after it, `name`."""
    if column.type == "string" and (steps := _steps(column, source)):
        how = " + ".join(step for step, _ in steps)
        changed = f"{_cast(column, kind, source)} IS DISTINCT FROM {name}"
        return [Normalised(column.name, how, f"{changed} AND {bad} IS NULL" if bad else changed)]
    if column.type == "date" and pa.types.is_timestamp(kind) and "day_of_timestamp" in column.normalise:
        local = local_time(kind, source)
        return [Normalised(column.name, "day_of_timestamp", f"{local} <> date_trunc('day', {local})")]
    if column.type == "date" and holds_text(kind):
        return [Normalised(column.name, "date_formats", f"{name} IS NOT NULL")]
    return []


def _reasons(column: Column, kind: pa.DataType, use: Use, source: str, name: str, bad: str | None) -> list[Reason]:
    """What may be wrong with a column's value, told by its own value `source` and the normalised one, `name`.

    `bad` is SQL of the value where it could not be decoded, when the file has such values.
    """
    reasons = []
    there = f"({source} IS NOT NULL OR {bad} IS NOT NULL)" if bad else f"{source} IS NOT NULL"
    null = f"NOT {there}" if bad else f"{source} IS NULL"
    if column.type != "string":
        lost = f"{there} AND {name} IS NULL"
        reasons.append(Reason(column.name, _with_loss(column, kind), "error", lost))
    else:
        null = f"{name} IS NULL"
        if bad or _is_binary(kind):
            damaged = f"{bad} IS NOT NULL" if bad else f"{source} IS NOT NULL AND {_as_text(kind, source)} IS NULL"
            rule = "encoding: cannot be decoded; write it as text in UTF-8"
            reasons.append(Reason(column.name, rule, "error", damaged))
            null += f" AND NOT ({damaged})"
        if column.role == "entity" and not _matches_are_normal(column):
            reasons.append(Reason(column.name, NO_NUL, "error", f"contains({name}, chr(0))"))
    if not column.nullable.on(use):
        reasons.append(Reason(column.name, "not_null", "error", null))
    if column.domain is not None:
        levels = literals(column.domain.levels)
        severity: Severity = "error" if column.domain.closed.on(use) else "warning"
        rule = f"domain: one of {', '.join(column.domain.levels)}"
        reasons.append(Reason(column.name, rule, severity, f"{name} NOT IN ({levels})"))
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
    column: Column, kind: pa.DataType, use: Use, source: str, staged_raw: str, bad: str | None = None
) -> _Compiled:
    name = identifier(column.name)
    cast = _cast(column, kind, source)
    if cast is None:
        # nulls stay nulls, which may be a fault of their own; a value is of no use
        nothing = f"CAST(NULL AS {DUCKDB_TYPES[column.type]})"
        there = f"({staged_raw} IS NOT NULL OR {bad} IS NOT NULL)" if bad else f"{staged_raw} IS NOT NULL"
        reasons = [Reason(column.name, _not_of_type(column, kind), "error", there)]
        if column.nullable.on(use):
            doubt = [f"{source} IS NOT NULL"] + ([f"{bad} IS NOT NULL"] if bad else [])
            return _Compiled(nothing, nothing, doubt, reasons, [])
        reasons.append(Reason(column.name, "not_null", "error", f"NOT {there}"))
        return _Compiled(nothing, nothing, ["true"], reasons, [])
    steps = _steps(column, cast) if column.type == "string" else []
    value = steps[-1][1] if steps else cast
    plain = f"({value})"
    doubt = []
    if column.type == "string" and _is_text(kind):
        plain = source
        if steps:
            odd = _not_normal(column, source, value)
            value = f"CASE WHEN {odd} THEN {value} ELSE {source} END"
            doubt += [] if _matches_are_normal(column) else [odd]
    elif column.type == "double" and pa.types.is_floating(kind):
        plain = f"CAST({source} AS DOUBLE)"
        doubt.append(f"NOT isfinite({source})")
    else:
        doubt += [n.condition for n in _normalised(column, kind, source, plain, bad)]
    doubt += [r.condition for r in _reasons(column, kind, use, source, plain, bad)]
    staged = _reasons(column, kind, use, staged_raw, name, bad)
    if column.type == "string" and pa.types.is_floating(kind):
        doubt.append(f"NOT isfinite({source})")
        staged.insert(0, Reason(column.name, "type: not a finite number", "error", f"NOT isfinite({staged_raw})"))
    return _Compiled(value, plain, doubt, staged, _normalised(column, kind, staged_raw, name, bad))


def _pairs(rule: PairsRule, first: str, second: str) -> str:
    """SQL that is true when two values break a rule of pairs."""
    # a value outside the first column's pairs is that column's own fault, told once
    return " OR ".join(
        f"({first} = {literal(value)} AND {second} NOT IN ({literals(allowed)}))"
        for value, allowed in rule.allowed.items()
    )


@dataclass(frozen=True)
class Matched:
    """Where a file has the contract's columns.

    `near` holds the near names of absent columns, `ambiguous` all names of a file that may mean the same column.
    """

    places: dict[str, int]
    near: dict[str, tuple[str, ...]]
    ambiguous: dict[str, tuple[str, ...]]


def match_columns(contract: Contract, names: Sequence[str]) -> Matched:
    """Find the contract's columns in a file: by their exact names, or as `folded` when the contract says so."""
    alike: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        if name not in contract.columns:
            alike.setdefault(folded(name), []).append(place)
    found = Matched({}, {}, {})
    for column in contract.columns:
        exact = [place for place, name in enumerate(names) if name == column]
        near = alike.get(folded(column), [])
        if near and (exact or (contract.match == "insensitive" and len(near) > 1)):
            found.ambiguous[column] = tuple(names[place] for place in exact + near)
        elif contract.match == "insensitive" and near:
            found.places[column] = near[0]
        elif len(exact) == 1:
            found.places[column] = exact[0]
        elif near:
            found.near[column] = tuple(names[place] for place in near)
    return found


def compile_row_checks(
    contract: Contract,
    use: Use,
    schema: pa.Schema,
    as_of: date | None,
    recovered: frozenset[int] = frozenset(),
) -> RowChecks:
    """Compile the checks of one file from its Arrow schema.

    `staged` yields `row_nr`, every column of the contract normalised, and the file's own values as ``raw <place>``.
    Conditions of reasons and counters are SQL over the staged relation and may be null, which means false. Without
    `as_of` the rules that need it are left out. A column of the contract that stands twice counts as missing.
    `recovered` are the places of columns with values that could not be decoded: the source has null in their place,
    and beside it a column named by :func:`undecodable`.
    """
    matched = match_columns(contract, schema.names)
    found: dict[str, _Compiled] = {}
    filled: list[str] = []
    missing: list[str] = []
    casts: list[tuple[str, str, str]] = []
    reasons: list[Reason] = []
    doubt: list[str] = []
    for column in contract.columns.values():
        place = matched.places.get(column.name, -1)
        if place < 0:
            (missing if column.required.on(use) else filled).append(column.name)
            nothing = f"CAST(NULL AS {DUCKDB_TYPES[column.type]})"
            found[column.name] = _Compiled(nothing, nothing, [], [], [])
            continue
        kind = _unwrap(schema.field(place).type)
        bad = undecodable(place) if place in recovered else None
        found[column.name] = _compile(column, kind, use, identifier(f"c{place}"), raw(place), bad)
        as_expected = kind == column.arrow_type or (
            column.type == "date" and pa.types.is_timestamp(kind) and not kind.tz
        )
        if not (as_expected or (column.type == "string" and _is_text(kind))):
            casts.append((column.name, _named(kind), column.type))
    for compiled in found.values():
        reasons += compiled.reasons
        doubt += compiled.doubt
    unique: list[UniqueColumns] = []
    for rule in contract.rules:
        severity = rule.severity.on(use)
        if isinstance(rule, PairsRule):
            broken = f"{rule.name}: {rule.description}"
            condition = _pairs(rule, *map(identifier, rule.columns))
            reasons.append(Reason(" + ".join(rule.columns), broken, severity, condition, rule.columns))
            doubt.append(_pairs(rule, *(found[n].plain for n in rule.columns)))
        elif isinstance(rule, BeforeAsOfRule) and as_of is not None:
            (when,) = rule.columns
            late = f">= {literal(as_of)}"
            reasons.append(Reason(when, f"{rule.name}: before {as_of}", severity, f"{identifier(when)} {late}"))
            doubt.append(f"{found[when].plain} {late}")
        elif isinstance(rule, UniqueRule):
            every = rule.columns == "all"
            columns = tuple(contract.columns) if every else tuple(rule.columns)
            label = "all columns" if every else " + ".join(columns)
            unique.append(UniqueColumns(rule.name, label, severity, columns))
    values = [f"{c.value} AS {identifier(name)}" for name, c in found.items()]
    plain = [f"{c.plain} AS {identifier(name)}" for name, c in found.items()]
    in_doubt = " OR ".join(f"({d})" for d in dict.fromkeys(doubt)) or "false"
    columns_by_place = {place: name for name, place in matched.places.items()}
    raw_columns = tuple(
        RawColumn(
            f.name,
            f.type,
            raw(place),
            columns_by_place.get(place),
            undecodable(place) if place in recovered else None,
        )
        for place, f in enumerate(schema)
    )
    raws = [f"{identifier(f'c{place}')} AS {c.source}" for place, c in enumerate(raw_columns)]
    raws += [undecodable(place) for place in sorted(recovered)]
    return RowChecks(
        schema=SchemaFindings(
            tuple(missing),
            tuple(filled),
            tuple(n for p, n in enumerate(schema.names) if n not in contract.columns and p not in columns_by_place),
            tuple(casts),
            tuple(matched.near.items()),
            tuple(matched.ambiguous.items()),
        ),
        source=tuple(f"c{place}" for place in range(len(schema))),
        staged=f"SELECT {ROW_NR}, {', '.join(values + raws)} FROM source",
        plain=f"SELECT {', '.join([ROW_NR, *plain])}, ({in_doubt}) AS {identifier(IN_DOUBT)} FROM source",
        doubt=in_doubt,
        columns=tuple(contract.columns),
        raw_columns=raw_columns,
        reasons=tuple(reasons),
        normalised=tuple(n for c in found.values() for n in c.normalised),
        unique=tuple(unique),
    )
