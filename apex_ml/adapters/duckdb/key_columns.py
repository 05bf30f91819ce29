"""Columns that the path of a file holds, beside those of the file itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path

import pyarrow as pa

from apex_ml.adapters.duckdb.engine import StrictConnection, errors_name, one_row
from apex_ml.adapters.duckdb.file_report import repr_visible
from apex_ml.contract.columns import Column
from apex_ml.contract.model import Contract
from apex_ml.errors import DataError
from apex_ml.sql.casts import date_formats
from apex_ml.sql.path_keys import NULL_TEXT, count_other_values
from apex_ml.sql.quote import literal
from apex_ml.text import folded, visible
from apex_ml.wording import counted


@dataclass(frozen=True)
class KeyColumn:
    """A column with the same value in every row, from the name of a folder."""

    name: str
    kind: pa.DataType
    sql: str
    """SQL of the value."""


def key_columns(
    con: StrictConnection, path: Path, contract: Contract, schema: pa.Schema, keys: Mapping[str, str | None]
) -> tuple[KeyColumn, ...]:
    """The columns in the path of a file that it does not hold itself.

    Raises :class:`~apex_ml.errors.DataError` when it holds one of them with another value.
    """
    columns = []
    held = {folded(name) for name in schema.names if name in contract.file_columns}
    for name, value in keys.items():
        if name not in schema.names:
            if name not in contract.file_columns and folded(name) in held:
                continue  # another spelling of a column that the file has by its own name
            columns.append(_column(contract, name, value))
        elif schema.names.count(name) == 1 and name in contract.file_columns:
            _refuse_other_values(con, path, contract, schema, name, value)
    return tuple(columns)


def with_keys(schema: pa.Schema, keys: Sequence[KeyColumn]) -> pa.Schema:
    """A schema with the columns of the path behind those of the file."""
    for key in keys:
        schema = schema.append(pa.field(key.name, key.kind))
    return schema


def _column(contract: Contract, name: str, value: str | None) -> KeyColumn:
    column = contract.columns.get(name)
    if column is not None and column.type == "date" and value is not None and not _fits_format(column, value):
        with suppress(ValueError):  # the checks say that it is no date
            return KeyColumn(name, pa.date32(), literal(date.fromisoformat(value)))
    return KeyColumn(name, pa.string(), NULL_TEXT if value is None else literal(value))


def _fits_format(column: Column, value: str) -> bool:
    """Whether one of the formats of the column reads a text: else it is read as folders usually name days."""
    for form in date_formats(column):
        with suppress(ValueError):
            datetime.strptime(value, form)
            return True
    return False


def _refuse_other_values(
    con: StrictConnection, path: Path, contract: Contract, schema: pa.Schema, name: str, value: str | None
) -> None:
    place, key = schema.names.index(name), _column(contract, name, value)
    kind = schema.field(place).type
    query = count_other_values(path, len(schema), place, contract.columns[name], kind, (key.kind, key.sql))
    with errors_name(path.name):
        rows, example = one_row(con, query)
    if rows:
        shown = "null" if example is None else repr_visible(example)
        folder = "null" if value is None else repr_visible(value)
        raise DataError(
            f"{path.name}: {counted(rows, 'row')} of the column {visible(name)} differ from the name of the folder, as"
            f" {shown} where the folder says {folder}; correct the file, or move it into the right folder"
        )
