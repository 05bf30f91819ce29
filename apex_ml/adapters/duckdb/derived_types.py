"""The types of derived columns' expressions, as DuckDB reads them; refuse those that it cannot read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path

import duckdb
import pyarrow as pa

from apex_ml.adapters.duckdb.engine import reason_of
from apex_ml.contract.columns import Column
from apex_ml.contract.expressions import shown_expression
from apex_ml.contract.model import Contract
from apex_ml.contract.part import Place
from apex_ml.contract.pipeline_file import refuse_in_file
from apex_ml.errors import ConfigError
from apex_ml.sql.casts import cast_sql
from apex_ml.sql.constant_parts import constant_parts
from apex_ml.sql.derived import select_expressions
from apex_ml.sql.file_types import type_name
from apex_ml.sql.session import SHOW_INSTANTS_IN_UTC
from apex_ml.text import shortened_line

_MAX_REASON = 300


def derived_types(contract: Contract) -> Mapping[str, pa.DataType]:
    """The type of the expression of every derived column, by column.

    Raises :class:`~apex_ml.errors.ConfigError` with each expression that DuckDB cannot read, or whose type its column
    cannot have.
    """
    types, faults = _read(contract)
    if faults:
        raise ConfigError("\n".join(f"{contract.name}: {_dotted(place)}: {text}" for place, text in faults))
    return types


def refuse_expressions(path: Path, contract: Contract) -> None:
    """Refuse a pipeline's file with expressions that DuckDB cannot read.

    Raises :class:`~apex_ml.errors.ConfigError` with file, line, column and expression of each of them.
    """
    if contract.derived and (faults := _read(contract)[1]):
        raise refuse_in_file(path, faults)


def _dotted(place: Place) -> str:
    return ".".join(map(str, place))


def _read(contract: Contract) -> tuple[Mapping[str, pa.DataType], tuple[tuple[Place, str], ...]]:
    return _types(_Key(contract)) if contract.derived else ({}, ())


class _Key:
    """A contract as the key of a cache: two are equal when their columns are."""

    def __init__(self, contract: Contract) -> None:
        self.contract = contract
        self._text = repr([(c.name, c.type, c.decimals, c.timezone, c.derive) for c in contract.columns.values()])

    def __hash__(self) -> int:
        return hash(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self._text == other._text


@lru_cache(maxsize=64)
def _types(key: _Key) -> tuple[Mapping[str, pa.DataType], tuple[tuple[Place, str], ...]]:
    contract = key.contract
    types: dict[str, pa.DataType] = {}
    faults: list[tuple[Place, str]] = []
    with duckdb.connect(":memory:", config={"threads": "1"}) as con:
        con.execute(SHOW_INSTANTS_IN_UTC)
        for column in contract.derived.values():
            try:
                types[column.name] = con.sql(select_expressions(contract, [column])).to_arrow_table().schema.types[0]
            except duckdb.Error as error:
                reason = shortened_line(reason_of(error), _MAX_REASON)
                text = f"{shown_expression(column.derive)}: DuckDB cannot read the expression: {reason}"
                faults.append((("columns", column.name, "derive"), text))
                continue
            faults += [(("columns", column.name, "derive"), text) for text in _constant_faults(con, column)]
            if (fault := _type_fault(column, types[column.name])) is not None:
                faults.append((("columns", column.name, "derive"), f"{shown_expression(column.derive)}: {fault}"))
    return types, tuple(faults)


def _constant_faults(con: duckdb.DuckDBPyConnection, column: Column) -> Iterator[str]:
    """What an expression holds that fails in every row, as a regular expression that is none does."""
    assert column.expression is not None
    failed: set[str] = set()
    for part, query in constant_parts(column.expression):
        try:
            con.execute(query).fetchall()
        except duckdb.Error as error:
            reason = shortened_line(reason_of(error), _MAX_REASON)
            if reason not in failed:
                yield f"{shown_expression(column.derive)}: {shown_expression(part)} fails in every row: {reason}"
            failed.add(reason)


def _type_fault(column: Column, kind: pa.DataType) -> str | None:
    """Why a column cannot have the values of an expression; None when it can."""
    if pa.types.is_null(kind):
        return "it is null in every row: remove the column"
    if cast_sql(column, kind, "value") is None:
        advice = f"write a cast in it, or another type for {column.name}"
        if pa.types.is_string(kind) and column.type in ("date", "timestamp"):
            advice = "add date_formats to its normalise, or write strptime in it"
        return f"it gives {type_name(kind)}, and the column is {column.type}: {advice}"
    return None
