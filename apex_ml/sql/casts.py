"""Casts of a file's values to the contract's types, each without loss."""

from __future__ import annotations

import pyarrow as pa

from apex_ml.contract.checks import EXACT_INTEGERS, RangeCheck
from apex_ml.contract.columns import Column
from apex_ml.contract.normalisation import DateFormats, readable_format
from apex_ml.contract.written_times import CUT_REMEDY, SKIPPED_REMEDY, TOO_FINE, skipped_rule
from apex_ml.sql.file_types import (
    WIDEST_DECIMAL,
    as_text,
    duckdb_type,
    holds_text,
    local_time,
    number_text,
    type_name,
)
from apex_ml.sql.quote import literal
from apex_ml.sql.written_times import clock_readings, too_fine

NOT_FINITE = "type: not a finite number"
"""The rule that a number in a text column breaks."""
_NUMBERS = ("double", "int64", "decimal")
_DELIVERABLE = {
    "string": "text",
    "double": "numbers",
    "int64": "whole numbers",
    "decimal": "numbers",
    "boolean": "truth values, or 0 and 1",
    "date": "dates or timestamps",
    "timestamp": "timestamps",
}


def cast_sql(column: Column, kind: pa.DataType, source: str, decimal: str = ".") -> str | None:
    """SQL of a cast without loss, null where that is not possible; None when no value of the type can be cast.

    `decimal` is the decimal sign of numbers in text; with a comma a text with a point is no number.
    """
    if pa.types.is_null(kind):
        return f"CAST(NULL AS {duckdb_type(column)})"
    text = as_text(kind, source) if column.type == "string" or holds_text(kind) else None
    if column.type == "string":
        return text or (number_text(kind, source) if _is_number(kind) or pa.types.is_boolean(kind) else None)
    if text and decimal != "." and column.type in _NUMBERS:
        text = f"CASE WHEN NOT contains({text}, '.') THEN replace({text}, {literal(decimal)}, '.') END"
    if column.type == "double":
        return _double_sql(kind, source, text)
    if column.type == "int64":
        return _int64_sql(kind, source, text)
    if column.type == "boolean":
        return _boolean_sql(kind, source, text)
    if column.type == "decimal":
        return _decimal_sql(column, kind, source, text)
    if column.type == "timestamp":
        return _timestamp_sql(column, kind, source, text)
    return _date_sql(column, kind, source, text)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind))


def _double_sql(kind: pa.DataType, source: str, text: str | None) -> str | None:
    if not (text or _is_number(kind)):
        return None
    value = f"TRY_CAST(trim({text}) AS DOUBLE)" if text else f"CAST({source} AS DOUBLE)"
    exact = f"isfinite({value})"
    if pa.types.is_integer(kind) and kind.bit_width == 64:
        exact = f"{source} BETWEEN -{EXACT_INTEGERS} AND {EXACT_INTEGERS}"
    elif pa.types.is_decimal(kind) and kind.precision <= WIDEST_DECIMAL:
        exact = f"TRY_CAST({value} AS DECIMAL({kind.precision},{max(kind.scale, 0)})) = {source}"
    return f"CASE WHEN {exact} THEN {value} END"


def _int64_sql(kind: pa.DataType, source: str, text: str | None) -> str | None:
    if pa.types.is_integer(kind):
        return f"TRY_CAST({source} AS BIGINT)" if kind == pa.uint64() else f"CAST({source} AS BIGINT)"
    if pa.types.is_floating(kind):
        exact = f"isfinite({source}) AND {source} = trunc({source}) AND abs({source}) <= {EXACT_INTEGERS}"
        return f"CASE WHEN {exact} THEN CAST({source} AS BIGINT) END"
    if pa.types.is_decimal(kind):
        return f"CASE WHEN {source} = trunc({source}) THEN TRY_CAST({source} AS BIGINT) END"
    if text:
        whole = f"regexp_full_match(trim({text}), '[+-]?[0-9]+([.]0*)?')"
        return f"CASE WHEN {whole} THEN TRY_CAST(split_part(trim({text}), '.', 1) AS BIGINT) END"
    return None


def _boolean_sql(kind: pa.DataType, source: str, text: str | None) -> str | None:
    if pa.types.is_boolean(kind):
        return source
    if text:
        written = f"lower(trim({text}))"
        return f"CASE {written} WHEN 'true' THEN true WHEN 'false' THEN false END"
    return f"CASE WHEN {source} = 1 THEN true WHEN {source} = 0 THEN false END" if _is_number(kind) else None


def _decimal_sql(column: Column, kind: pa.DataType, source: str, text: str | None) -> str | None:
    if pa.types.is_floating(kind):  # a float stands for its shortest decimal digits
        text = number_text(kind, source)
    if text:
        # digits beyond the column's decimals would be rounded, unless all of them are zeros
        exact = f"regexp_full_match(trim({text}), '[+-]?[0-9]+([.][0-9]{{0,{column.decimals}}}0*)?')"
        return f"CASE WHEN {exact} THEN TRY_CAST(trim({text}) AS {duckdb_type(column)}) END"
    if not _is_number(kind):
        return None
    value = f"TRY_CAST({source} AS {duckdb_type(column)})"
    return f"CASE WHEN {value} = {source} THEN {value} END"


def _timestamp_sql(column: Column, kind: pa.DataType, source: str, text: str | None) -> str | None:
    zone = column.timezone
    if text and date_formats(column):
        times = [value if instant else _on_clock(value, zone) for instant, value in _readings(column, text)]
        return _first(times)
    if (time := _clock_time(column, kind, source)) is not None:
        return _on_clock(time, zone)
    if not pa.types.is_timestamp(kind) or zone is None:
        return None
    # what is stored without a zone, as INT96, would be taken for a time on the clock of the session
    value = f"make_timestamptz(epoch_us({source}))"
    if kind.unit == "ns":
        value = f"make_timestamptz({_microseconds(source)})" if is_cut(column) else f"CAST({source} AS TIMESTAMPTZ)"
    return f"CASE WHEN {_is_held(column, kind, source, value)} THEN {value} END"


def _first(values: list[str]) -> str:
    """SQL of the first value that is not null."""
    return values[0] if len(values) == 1 else f"coalesce({', '.join(values)})"


def _clock_time(column: Column, kind: pa.DataType, source: str) -> str | None:
    """SQL of a date, or of a timestamp without a zone, as a time without a zone; None for other types."""
    if pa.types.is_date(kind):
        return f"CASE WHEN isfinite({source}) THEN CAST({source} AS TIMESTAMP) END"
    if not pa.types.is_timestamp(kind) or kind.tz:
        return None
    is_fine = kind.unit == "ns" and is_cut(column)
    value = f"make_timestamp({_microseconds(source)})" if is_fine else f"CAST({source} AS TIMESTAMP)"
    return f"CASE WHEN {_is_held(column, kind, source, value)} THEN {value} END"


def _is_held(column: Column, kind: pa.DataType, source: str, value: str) -> str:
    """SQL that is true for a finite timestamp without more digits than microseconds."""
    exact = [f"isfinite({value})"]
    if kind.unit == "ns" and not is_cut(column):
        exact.append(f"epoch_ns({source}) % 1000 = 0")
    return " AND ".join(exact)


def _microseconds(source: str) -> str:
    """SQL of the microseconds since 1970 of a timestamp with nanoseconds, cut, also before 1970."""
    return f"((epoch_ns({source}) - (epoch_ns({source}) % 1000 + 1000) % 1000) // 1000)"


def is_cut(column: Column) -> bool:
    """Whether nanoseconds of a column are left out."""
    return "microsecond_of_timestamp" in column.normalise


def _readings(column: Column, text: str) -> list[tuple[bool, str]]:
    return clock_readings(text, date_formats(column), cut=is_cut(column))


def _on_clock(time: str, zone: str | None) -> str:
    """SQL of a time without a zone as the instant on the clock of a zone; null where the clock skips it."""
    if zone is None:
        return time
    instant = f"timezone({literal(zone)}, {time})"
    return f"CASE WHEN timezone({literal(zone)}, {instant}) = {time} THEN {instant} END"


def _date_sql(column: Column, kind: pa.DataType, source: str, text: str | None) -> str | None:
    if pa.types.is_date(kind):
        value = f"CAST({source} AS DATE)"
        return value if _is_bounded(column) else f"CASE WHEN isfinite({source}) THEN {value} END"
    if pa.types.is_timestamp(kind):
        # a time with a zone is read on the clock of that zone: midnight there is the intended day
        local = local_time(kind, source)
        value = f"CAST({local} AS DATE)"
        tests = [] if _is_bounded(column) else [f"isfinite({local})"]
        if "day_of_timestamp" not in column.normalise:
            tests.append(f"{local} = date_trunc('day', {local})")
        return f"CASE WHEN {' AND '.join(tests)} THEN {value} END" if tests else value
    if text and date_formats(column):
        zone = literal(column.timezone or "UTC")
        times = [f"timezone({zone}, {value})" if instant else value for instant, value in _readings(column, text)]
        return f"CAST({_first(times)} AS DATE)"
    return None


def _is_bounded(column: Column) -> bool:
    """Whether ranges exclude the infinite dates, by which DuckDB replaces dates that it cannot hold."""
    severe = [c for c in column.checks if isinstance(c, RangeCheck) and c.severity.train == c.severity.score == "error"]
    return any(c.min is not None for c in severe) and any(c.max is not None for c in severe)


def date_formats(column: Column) -> list[str]:
    """The formats in which a date may be written, for strptime."""
    return [f for step in column.normalise if isinstance(step, DateFormats) for f in step.date_formats]


def not_of_type(column: Column, kind: pa.DataType) -> str:
    """The rule that values break when no value of their type can be cast, with the remedy."""
    rule = f"type: {type_name(kind)} is not {column.type}"
    if column.type == "date" and holds_text(kind):
        return f"{rule}; add date_formats to its normalise in the contract, or deliver dates"
    if column.type == "timestamp" and holds_text(kind):
        return f"{rule}; add date_formats to its normalise in the contract, or deliver timestamps"
    if column.type == "timestamp" and pa.types.is_timestamp(kind):
        return (
            f"{rule} without a time zone; add timezone to the column in the contract, or deliver times without a zone"
        )
    return f"{rule}; deliver {_DELIVERABLE[column.type]}"


def too_fine_sql(column: Column, kind: pa.DataType, source: str) -> str | None:
    """SQL that is true for a value with nanoseconds; None for types and formats that have none."""
    if column.type != "timestamp":
        return None
    if holds_text(kind):
        text = as_text(kind, source)
        return too_fine(text, date_formats(column)) if text is not None else None
    return f"epoch_ns({source}) % 1000 <> 0" if pa.types.is_timestamp(kind) and kind.unit == "ns" else None


def lost_times(column: Column, kind: pa.DataType, source: str) -> list[tuple[str, str]]:
    """Why a timestamp is lost in a cast, where the value shows it: rules, each with SQL that is true for its values."""
    if column.type != "timestamp":
        return []
    rules = []
    if not is_cut(column) and (fine := too_fine_sql(column, kind, source)) is not None:
        rules.append((f"{TOO_FINE}: deliver microseconds, or {CUT_REMEDY}", fine))
    if (zone := column.timezone) is not None:
        text = as_text(kind, source) if holds_text(kind) else None
        times = [value for instant, value in _readings(column, text) if not instant] if text is not None else []
        times += filter(None, [_clock_time(column, kind, source)])
        skipped = [f"({time} IS NOT NULL AND {_on_clock(time, zone)} IS NULL)" for time in times]
        if skipped:
            rules.append((f"{skipped_rule(zone)}: {SKIPPED_REMEDY}", " OR ".join(skipped)))
    return rules


def with_loss(column: Column, kind: pa.DataType) -> str:
    """The rule that a value breaks when it cannot be cast without loss, with the remedy."""
    rule = f"type: not {column.type} without loss"
    if column.type == "date" and pa.types.is_timestamp(kind) and "day_of_timestamp" not in column.normalise:
        return f"{rule}; it has a time of day: add day_of_timestamp to its normalise in the contract"
    if column.type == "boolean":
        return f"{rule}; write it as true or false, or 1 or 0"
    if column.type == "decimal":
        return f"{rule}; it has more than {column.decimals} decimals or too many digits: raise decimals in the contract"
    if column.type in ("date", "timestamp") and holds_text(kind):
        return f"{rule}; write it as {' or '.join(map(readable_format, date_formats(column)))}"
    return rule
