"""Types of a file's columns, and SQL of their values as text or local time."""

from __future__ import annotations

import re

import pyarrow as pa

from apex_ml.contract.column_types import DECIMAL_DIGITS
from apex_ml.contract.columns import Column
from apex_ml.sql.quote import literal

_DUCKDB_TYPES = {"string": "VARCHAR", "double": "DOUBLE", "int64": "BIGINT", "date": "DATE", "boolean": "BOOLEAN"}

_OFFSET = re.compile(r"([+-])(\d\d):?(\d\d)")
WIDEST_DECIMAL = 38  # wider ones are read as double, which does not hold their digits
_WIDEST_INTEGER = "1.7014118346046923e38"  # 2^127: a smaller whole double fits DuckDB's widest integer, digit by digit


def duckdb_type(column: Column) -> str:
    """The type of a column's values in DuckDB."""
    if column.type == "decimal":
        return f"DECIMAL({DECIMAL_DIGITS},{column.decimals})"
    if column.type == "timestamp":
        return "TIMESTAMP" if column.timezone is None else "TIMESTAMP WITH TIME ZONE"
    return _DUCKDB_TYPES[column.type]


def level_sql(column: Column, value: str) -> str:
    """SQL of a value as the text by which levels and classes are named: its name in the contract, if it has one."""
    if column.type == "string":
        return value
    text = _level_text(column, value)
    if column.domain is None or column.domain.values is None:
        return text
    named = zip(column.domain.values, column.domain.levels, strict=True)
    cases = " ".join(f"WHEN {literal(of_value)} THEN {literal(name)}" for of_value, name in named)
    return f"CASE {text} {cases} ELSE {text} END"


def _level_text(column: Column, value: str) -> str:
    if column.type == "double":
        return number_text(pa.float64(), value)
    if column.type == "timestamp":
        clock = value if column.timezone is None else f"timezone('UTC', {value})"
        text = f"regexp_replace(strftime({clock}, '%Y-%m-%d %H:%M:%S.%f'), '[.]000000$', '')"
        return text if column.timezone is None else f"{text} || '+00:00'"
    return f"CAST({value} AS VARCHAR)"


def is_text(kind: pa.DataType) -> bool:
    """Whether a type is one of Arrow's types of text."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_binary(kind: pa.DataType) -> bool:
    """Whether a type is one of Arrow's types of bytes."""
    tests = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary)
    return any(test(kind) for test in tests)


def unwrap(kind: pa.DataType) -> pa.DataType:
    """The type of a dictionary's values; any other type unchanged."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def as_text(kind: pa.DataType, source: str) -> str | None:
    """SQL of a value that is text, however the file annotates it; null where its bytes are not UTF-8. Else None."""
    if is_text(kind):
        return source
    if is_binary(kind):
        return f"TRY(decode({source}))"
    return f"CAST({source} AS VARCHAR)" if isinstance(kind, pa.JsonType | pa.UuidType) else None


def holds_text(kind: pa.DataType) -> bool:
    """Whether values of a type are bytes that may be read as text."""
    return not isinstance(kind, pa.UuidType) and as_text(kind, "") is not None


def type_name(kind: pa.DataType) -> str:
    """The name of a type, for people: the layouts that Arrow has for text are one type.

    >>> type_name(pa.large_string()), type_name(pa.int32())
    ('string', 'int32')
    """
    if is_text(kind):
        return "string"
    return str(kind.type_name if isinstance(kind, pa.OpaqueType) else kind)


def local_time(kind: pa.DataType, source: str) -> str:
    """SQL of a timestamp on the clock of its own zone; a zone is a name or an offset such as -05:00.

    Values of a type with a zone may be stored with the mark of a zone or, as INT96, without it.
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
    """SQL of a number as text, null for NaN and infinity. Equal numbers of all types have the same text.

    A whole number has neither point nor exponent; another one has its shortest decimal digits, without exponent.
    :func:`apex_ml.contract.column_types.number_text` gives the same text for a number of JSON.
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
