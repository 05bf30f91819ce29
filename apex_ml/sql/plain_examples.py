"""The examples of rows without history, as they have no entity or no timestamp: DuckDB SQL."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

from apex_ml.contract.columns import Column
from apex_ml.contract.model import Contract
from apex_ml.contract.names import ROW_DAY, ROW_IDENTITY
from apex_ml.sql.features import class_sql
from apex_ml.sql.quote import identifier, identifiers, literal

_SEPARATOR, _NULL = "chr(31)", "chr(0)"


def select_plain_examples(contract: Contract, rows: str, day: date | None = None) -> str:
    """Every row of a query as an example: entity, timestamp, target as its class, and attributes.

    Rows without timestamp get the day, if it is given.

    The identity of a row without entity is a hash of its key, or without one of its values, and of its number among
    equal rows. So it is the same in every run, whatever the files.
    """
    entity = identifier(contract.entity) if contract.has_entity else f"{_identity(contract)} AS {ROW_IDENTITY}"
    columns = [entity, f"{class_sql(contract)} AS {identifier(contract.target)}"]
    columns += [identifier(name) for name in contract.named("timestamp", "attribute")]
    if day is not None and not contract.has_timestamp:
        columns.append(f"{literal(day)} AS {ROW_DAY}")
    return f"SELECT {', '.join(columns)} FROM ({rows})"


def select_sorted_examples(contract: Contract, rows: str, day: date) -> str:
    """The same by day and identity, so that their order depends on nothing else."""
    keys = identifiers([contract.timestamp, contract.entity, contract.target, *contract.named("attribute")])
    return f"FROM ({select_plain_examples(contract, rows, day)}) ORDER BY {keys}"


def content_hash(contract: Contract, names: Sequence[str], *more: str) -> str:
    """SQL: a number of 64 bits made of the values of columns, and of more values of text; the same in every run."""
    texts = [f"coalesce(CAST({_plain(contract.columns[name])} AS VARCHAR), {_NULL})" for name in names]
    return f"md5_number_lower(concat_ws({_SEPARATOR}, {', '.join([*texts, *more])}))"


def _plain(column: Column) -> str:
    """SQL of a value whose text does not depend on the clock of the session."""
    value = identifier(column.name)
    return f"epoch_us({value})" if column.type == "timestamp" else value


def _identity(contract: Contract) -> str:
    names = contract.named("key") or tuple(contract.columns)
    return content_hash(contract, names, f"CAST(row_number() OVER (PARTITION BY {identifiers(names)}) AS VARCHAR)")
