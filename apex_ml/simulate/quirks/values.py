"""Quirks of values: chosen rows carry other values, or come several times."""

from __future__ import annotations

import zlib
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from apex_ml.contract.time_units import EPOCH
from apex_ml.errors import ConfigError, DataError
from apex_ml.simulate.process_columns import Choice
from apex_ml.simulate.quirks.interface import Context, Mask, Quirks, row_quirk
from apex_ml.simulate.quirks.table_edits import configured_columns, replace_where, set_column

QUIRKS: Quirks = {}
_rows = partial(row_quirk, QUIRKS)


@_rows("nulls", "Values go missing in the listed columns.")
def _nulls(table: pa.Table, rows: Mask, context: Context) -> pa.Table:
    for name in configured_columns(context, "nulls", table):
        table = replace_where(table, name, rows, pa.scalar(None, table.column(name).type))
    return table


def _append(table: pa.Table, rows: Mask, context: Context, quirk: str) -> pa.Table:
    for name in configured_columns(context, quirk, table):
        longer = pc.binary_join_element_wise(table.column(name), context.settings.value, "")
        table = replace_where(table, name, rows, longer)
    return table


@_rows("estrellas_suffix", "The level carries its unit: '3 estrellas' for '3'.")
def _suffix(table: pa.Table, rows: Mask, context: Context) -> pa.Table:
    return _append(table, rows, context, "estrellas_suffix")


@_rows("estrellas_decimal", "The level went through a spreadsheet: '3.0' for '3'.")
def _decimal(table: pa.Table, rows: Mask, context: Context) -> pa.Table:
    return _append(table, rows, context, "estrellas_decimal")


@_rows("case", "Levels in lower case.")
def _case(table: pa.Table, rows: Mask, context: Context) -> pa.Table:
    for name in configured_columns(context, "case", table):
        table = replace_where(table, name, rows, pc.utf8_lower(table.column(name)))
    return table


@_rows("white_space", "A space before and a space after the level.")
def _white_space(table: pa.Table, rows: Mask, context: Context) -> pa.Table:
    for name in configured_columns(context, "white_space", table):
        table = replace_where(table, name, rows, pc.binary_join_element_wise("", table.column(name), "", " "))
    return table


@_rows("date_strings", "The day column is a string, as dd/mm/yyyy in the chosen rows and as yyyy-mm-dd in the others.")
def _date_strings(table: pa.Table, rows: Mask, context: Context) -> pa.Table:
    for name in configured_columns(context, "date_strings", table):
        column = table.column(name)
        if not pa.types.is_timestamp(column.type):
            raise DataError(f"quirk date_strings: {name} is {column.type}, not a time any more")
        days = column.cast(pa.timestamp("s"))
        texts = pc.if_else(pa.array(rows), _format(days, context.settings.value), _format(days, "%Y-%m-%d"))
        table = set_column(table, name, texts)
    return table


def _format(days: pa.ChunkedArray, style: str) -> pa.ChunkedArray:
    return pc.strftime(days, format=style)


def _replace_value(table: pa.Table, rows: Mask, context: Context, quirk: str) -> pa.Table:
    for name in configured_columns(context, quirk, table):
        table = replace_where(table, name, rows, pa.scalar(context.settings.value, pa.string()))
    return table


@_rows("unknown_country", "A country that is in no list.")
def _unknown_country(table: pa.Table, rows: Mask, context: Context) -> pa.Table:
    return _replace_value(table, rows, context, "unknown_country")


@_rows("new_channel", "A channel that did not exist before.")
def _new_channel(table: pa.Table, rows: Mask, context: Context) -> pa.Table:
    return _replace_value(table, rows, context, "new_channel")


@_rows("negative_amounts", "Amounts below zero; a zero becomes -1.")
def _negative_amounts(table: pa.Table, rows: Mask, context: Context) -> pa.Table:
    for name in configured_columns(context, "negative_amounts", table):
        column = table.column(name)
        below = pc.negate(pc.abs(column))
        one = pa.scalar(-1, column.type)
        table = replace_where(table, name, rows, pc.if_else(pc.equal(column, pa.scalar(0, column.type)), one, below))
    return table


@_rows("outlier_amounts", "Amounts a thousand times too large (the factor is in the process file).")
def _outlier_amounts(table: pa.Table, rows: Mask, context: Context) -> pa.Table:
    for name in configured_columns(context, "outlier_amounts", table):
        column = table.column(name)
        larger = pc.multiply(column.cast(pa.float64()), context.settings.factor)
        table = replace_where(table, name, rows, larger.cast(column.type))
    return table


@_rows("changing_attributes", "Attributes move to the next level, for good, on a day of each client's own.", "clients")
def _changing_attributes(table: pa.Table, rows: Mask, context: Context) -> pa.Table:
    # A hash of the client decides who changes and when, so that a client's orders agree over all files.
    process = context.process
    entities = table.column(process.entity).combine_chunks().dictionary_encode(null_encoding="encode")
    names = entities.dictionary.to_pylist()
    hashes = np.array([zlib.crc32(f"{context.seed}:{name}".encode()) for name in names], np.int64)
    window = (process.window.end - process.window.start).days
    first = (process.window.start - EPOCH).days
    moments = first + 1 + hashes * 7919 % max(1, window)  # a prime step makes the day differ from the order of the hash
    codes = entities.indices.to_numpy(zero_copy_only=False)
    days = (
        pc.fill_null(table.column(process.timestamp).cast(pa.timestamp("s")).cast(pa.int64()), 0).to_numpy() // 86_400
    )
    # One order: the change is not permanent; only this order shows other attributes.
    after = rows if context.rate == "one" else (hashes < context.rate * 2**32)[codes] & (days >= moments[codes])
    for name in configured_columns(context, "changing_attributes", table):
        column = process.columns.get(name)
        if not isinstance(column, Choice):
            raise ConfigError(f"quirk changing_attributes: {name} is not a choice column of the process")
        levels = pa.array(column.levels)
        shifted = pa.array(column.levels[1:] + column.levels[:1])
        table = replace_where(table, name, after, shifted.take(pc.index_in(table.column(name), levels)))
    return table


@_rows("duplicated_rows", "Chosen rows stand ten times, one after the other (rate 1: the whole file ten times).")
def _duplicated_rows(table: pa.Table, rows: Mask, context: Context) -> pa.Table:
    return table.take(pa.array(np.repeat(np.arange(table.num_rows), np.where(rows, int(context.settings.factor), 1))))


@_rows("int_as_fraction", "A whole-number column is delivered as double, with half a unit too much in the chosen rows.")
def _int_as_fraction(table: pa.Table, rows: Mask, context: Context) -> pa.Table:
    for name in configured_columns(context, "int_as_fraction", table):
        column = table.column(name).cast(pa.float64())
        table = set_column(table, name, pc.if_else(pa.array(rows), pc.add(column, 0.5), column))
    return table
