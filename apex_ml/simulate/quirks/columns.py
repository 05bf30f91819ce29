"""Quirks of columns: types change, and columns are missing, added or in another order."""

from __future__ import annotations

from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from apex_ml.errors import ConfigError, DataError
from apex_ml.simulate.quirks.interface import Context, Mask, Quirks, column_quirk
from apex_ml.simulate.quirks.table_edits import configured_columns, set_column

QUIRKS: Quirks = {}
_columns = partial(column_quirk, QUIRKS)


@_columns("int_as_double", "A whole-number column is delivered as double; no value changes.")
def _int_as_double(table: pa.Table, rows: Mask, context: Context) -> pa.Table:
    for name in configured_columns(context, "int_as_double", table):
        table = set_column(table, name, table.column(name).cast(pa.float64()))
    return table


@_columns("double_as_int", "A column of doubles is delivered as int64, rounded: the decimals are lost at the source.")
def _double_as_int(table: pa.Table, rows: Mask, context: Context) -> pa.Table:
    for name in configured_columns(context, "double_as_int", table):
        table = set_column(table, name, pc.round(table.column(name)).cast(pa.int64()))
    return table


@_columns("all_null_column", "A column without any value, stored as parquet's null type.")
def _all_null_column(table: pa.Table, rows: Mask, context: Context) -> pa.Table:
    for name in configured_columns(context, "all_null_column", table):
        table = set_column(table, name, pa.nulls(table.num_rows))
    return table


@_columns("missing_column", "The listed columns are not in the file.")
def _missing_column(table: pa.Table, rows: Mask, context: Context) -> pa.Table:
    return table.drop_columns(configured_columns(context, "missing_column", table))


@_columns("extra_column", "A column nobody asked for, the same text in every row.")
def _extra_column(table: pa.Table, rows: Mask, context: Context) -> pa.Table:
    if not context.settings.columns:
        raise ConfigError(
            f"quirk extra_column: process {context.process.name} names no column (quirks.extra_column.columns)"
        )
    for name in context.settings.columns:
        if name in table.column_names:
            raise ConfigError(f"quirk extra_column: {name} is there already")
        table = table.append_column(name, pa.repeat(pa.scalar(context.settings.value), table.num_rows))
    return table


@_columns("reordered_columns", "The columns in another order.")
def _reordered_columns(table: pa.Table, rows: Mask, context: Context) -> pa.Table:
    order = context.random.permutation(table.num_columns).tolist()
    if order == sorted(order):  # a shuffle must change the order
        order.reverse()
    return table.select([table.column_names[place] for place in order])


@_columns("dictionary_strings", "Strings are stored as Arrow dictionaries, and read back as such.", arrow_schema=True)
def _dictionary_strings(table: pa.Table, rows: Mask, context: Context) -> pa.Table:
    columns = [c.dictionary_encode() if pa.types.is_string(c.type) else c for c in table.columns]
    return pa.table(columns, names=table.column_names)


@_columns("tz_aware", "The day is an instant: midnight of a time zone.", arrow_schema=True)
def _tz_aware(table: pa.Table, rows: Mask, context: Context) -> pa.Table:
    for name in configured_columns(context, "tz_aware", table):
        column = table.column(name)
        if not pa.types.is_timestamp(column.type):
            raise DataError(f"quirk tz_aware: {name} is {column.type}, not a time any more")
        naive = column.cast(pa.timestamp("us"))
        zoned = pc.assume_timezone(naive, context.settings.value, ambiguous="earliest", nonexistent="latest")
        table = set_column(table, name, zoned)
    return table
