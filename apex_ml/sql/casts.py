"""Casts of a file's values to the contract's types, each without loss."""

from __future__ import annotations

import pyarrow as pa

from apex_ml.contract.checks import EXACT_INTEGERS, RangeCheck
from apex_ml.contract.columns import Column
from apex_ml.contract.normalisation import DateFormats, readable_format
from apex_ml.sql.file_types import (
    DUCKDB_TYPES,
    WIDEST_DECIMAL,
    as_text,
    holds_text,
    local_time,
    number_text,
    type_name,
)
from apex_ml.sql.quote import literals

_DELIVERABLE = {"string": "text", "double": "numbers", "int64": "whole numbers", "date": "dates or timestamps"}


def cast_sql(column: Column, kind: pa.DataType, source: str) -> str | None:
    """SQL of a cast without loss, null where that is not possible; None when no value of the type can be cast."""
    if pa.types.is_null(kind):
        return f"CAST(NULL AS {DUCKDB_TYPES[column.type]})"
    text = as_text(kind, source) if column.type == "string" or holds_text(kind) else None
    if column.type == "string":
        return text or (number_text(kind, source) if _is_number(kind) or pa.types.is_boolean(kind) else None)
    if column.type == "double":
        return _double_sql(kind, source, text)
    if column.type == "int64":
        return _int64_sql(kind, source, text)
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
    if text and (formats := date_formats(column)):
        return f"CAST(try_strptime(trim({text}), [{literals(formats)}]) AS DATE)"
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
    return f"{rule}; deliver {_DELIVERABLE[column.type]}"


def with_loss(column: Column, kind: pa.DataType) -> str:
    """The rule that a value breaks when it cannot be cast without loss, with the remedy."""
    rule = f"type: not {column.type} without loss"
    if column.type == "date" and pa.types.is_timestamp(kind) and "day_of_timestamp" not in column.normalise:
        return f"{rule}; it has a time of day: add day_of_timestamp to its normalise in the contract"
    if column.type == "date" and holds_text(kind):
        return f"{rule}; write it as {' or '.join(map(readable_format, date_formats(column)))}"
    return rule
