"""The types of a parquet file's columns as DuckDB reads them, in Arrow's words.

DuckDB reads the values, so its types count. PyArrow's schema differs for text annotated ENUM, durations, intervals and
others. Only the zones of timestamps with time zone come from PyArrow, as DuckDB does not report them.
"""

from __future__ import annotations

import re
from pathlib import Path

import duckdb
import pyarrow as pa

from apex_ml.adapters.duckdb.engine import errors_name
from apex_ml.adapters.storage.parquet_pages import columns_of_type
from apex_ml.contract.model import Contract
from apex_ml.errors import DataError
from apex_ml.sql.parquet import describe_types
from apex_ml.sql.row_checks import RowChecks
from apex_ml.sql.time_zones import convert_epoch
from apex_ml.text import visible

_TYPES = {
    "BOOLEAN": pa.bool_(), "TINYINT": pa.int8(), "SMALLINT": pa.int16(), "INTEGER": pa.int32(), "BIGINT": pa.int64(),
    "UTINYINT": pa.uint8(), "USMALLINT": pa.uint16(), "UINTEGER": pa.uint32(), "UBIGINT": pa.uint64(),
    "FLOAT": pa.float32(), "DOUBLE": pa.float64(), "VARCHAR": pa.string(), "BLOB": pa.binary(), "JSON": pa.json_(),
    "UUID": pa.uuid(), "DATE": pa.date32(), "TIME": pa.time64("us"), "TIME_NS": pa.time64("ns"),
    "TIMESTAMP": pa.timestamp("us"), "TIMESTAMP_NS": pa.timestamp("ns"),
    "TIMESTAMP WITH TIME ZONE": pa.timestamp("us", "UTC"), "TIMESTAMPTZ_NS": pa.timestamp("ns", "UTC"),
    '"NULL"': pa.null(),
}  # fmt: skip
_DECIMAL = re.compile(r"DECIMAL\((\d+),(\d+)\)")
_ZULU = ("Z", "UTC+00:00", "UTC+0")  # DuckDB does not know them
_UNSUPPORTED = {20: "BSON"}  # converted types that DuckDB cannot read, by their numbers in parquet.thrift


def as_read(con: duckdb.DuckDBPyConnection, path: Path, schema: pa.Schema) -> pa.Schema:
    """The schema of a file with the types that DuckDB reads; `schema` is PyArrow's of the same file.

    A type that cannot be cast to the contract's types is Arrow's own when nested, else an opaque type with DuckDB's
    name. Raises :class:`~apex_ml.errors.DataError` naming the file when DuckDB cannot read a type at all.
    """
    with errors_name(path.name):
        try:
            types = [row[1] for row in con.execute(describe_types(path, len(schema))).fetchall()]
        except duckdb.IOException as error:
            if (code := re.search(r"Unsupported converted type \((\d+)\)", str(error))) is None:
                raise
            name = _UNSUPPORTED.get(int(code[1]), f"converted type {code[1]}")
            odd = ", ".join(map(visible, columns_of_type(path, int(code[1]))))
            raise DataError(
                f"{path.name}: column {odd}: the type {name} cannot be read; write it as text, a number or a date,"
                " or leave the column out"
            ) from error
    fields = [pa.field(f.name, _type(t, f.type)) for t, f in zip(types, schema, strict=True)]
    return pa.schema(fields, metadata=schema.metadata)


def _type(read: str, arrow: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(arrow):
        arrow = arrow.value_type
    if pa.types.is_duration(arrow) or (pa.types.is_decimal256(arrow) and read == "DOUBLE"):
        return arrow  # DuckDB reads a number without its unit, or without its last digits
    if decimal := _DECIMAL.fullmatch(read):
        return pa.decimal128(int(decimal[1]), int(decimal[2]))
    if (known := _TYPES.get(read)) is None:
        return arrow if pa.types.is_nested(arrow) else pa.opaque(pa.binary(), read.lower(), "parquet")
    if pa.types.is_timestamp(known) and pa.types.is_timestamp(arrow) and bool(known.tz) == bool(arrow.tz):
        return arrow if arrow.tz not in _ZULU else pa.timestamp(arrow.unit, "UTC")  # with its zone and unit
    return arrow if _family(known) == _family(arrow) else known


def _family(kind: pa.DataType) -> str:
    """The name of a type, whichever of Arrow's layouts it has."""
    if pa.types.is_fixed_size_binary(kind):
        return "binary"
    return str(kind).removeprefix("large_").removesuffix("_view").replace("halffloat", "float")


def refuse_unknown_zones(con: duckdb.DuckDBPyConnection, path: Path, contract: Contract, checks: RowChecks) -> None:
    """Raise :class:`~apex_ml.errors.DataError` when a column of dates or instants has an unknown time zone."""
    for column in checks.raw_columns:
        if column.column is None or contract.columns[column.column].type not in ("date", "timestamp"):
            continue
        if not (pa.types.is_timestamp(column.kind) and column.kind.tz):
            continue
        try:
            con.execute(convert_epoch(column.kind.tz))
        except duckdb.Error as error:
            raise DataError(
                f"{path.name}: column {visible(column.name)}: the time zone '{visible(column.kind.tz)}' is not known;"
                " write an IANA name such as America/Lima, an offset such as -05:00, or times without a zone"
            ) from error
