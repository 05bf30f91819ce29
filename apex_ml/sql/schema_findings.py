"""How a file's columns and types differ from those of the contract."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from apex_ml.contract.column_names import Matched
from apex_ml.contract.columns import Column
from apex_ml.contract.model import Contract
from apex_ml.contract.per_use import Use
from apex_ml.sql.file_types import is_text, type_name, unwrap


@dataclass(frozen=True)
class SchemaFindings:
    """How a file's columns and types differ from the contract's."""

    missing_required: tuple[str, ...]
    filled: tuple[str, ...]
    added: tuple[str, ...]
    cast: tuple[tuple[str, str, str], ...]
    near: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Columns of the contract that are not there, with the names in the file that differ only as `folded` says."""
    ambiguous: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Columns of the contract with all the names in the file that may mean them, where these are several."""
    delivered: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Derived columns of the contract that the file holds nevertheless, with their names in the file."""


def compare_schema(contract: Contract, use: Use, schema: pa.Schema, matched: Matched) -> SchemaFindings:
    """Compare a file's columns and types with the contract's."""
    places = set(matched.places.values())
    absent = [column for column in contract.file_columns.values() if column.name not in matched.places]
    casts = []
    for name, place in matched.places.items():
        kind = unwrap(schema.field(place).type)
        if not _is_expected(contract.columns[name], kind):
            casts.append((name, type_name(kind), contract.columns[name].type))
    return SchemaFindings(
        tuple(column.name for column in absent if column.required.on(use)),
        tuple(column.name for column in absent if not column.required.on(use)),
        tuple(
            n
            for p, n in enumerate(schema.names)
            if n not in contract.columns and n not in contract.ignored and p not in places
        ),
        tuple(casts),
        tuple(matched.near.items()),
        tuple(matched.ambiguous.items()),
        tuple(matched.derived.items()),
    )


def _is_expected(column: Column, kind: pa.DataType) -> bool:
    """Whether a column's values may have a type without being reported as cast."""
    if column.type == "string" and is_text(kind):
        return True
    if column.type == "timestamp" and pa.types.is_timestamp(kind):
        return bool(kind.tz) == bool(column.timezone)
    if column.type == "decimal" and pa.types.is_decimal(kind):
        return bool(kind.scale <= (column.decimals or 0))
    return bool(kind == column.arrow_type or (column.type == "date" and pa.types.is_timestamp(kind) and not kind.tz))
