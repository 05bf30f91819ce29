"""The newest raw row of each entity, from files that may lack columns or have others: DuckDB SQL."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from apex_ml.contract.columns import Column
from apex_ml.contract.model import Contract
from apex_ml.sql.derived import select_row_values
from apex_ml.sql.file_types import duckdb_type, number_text
from apex_ml.sql.quote import identifier

RAW_FILES = "raw_files"
RAW_ROWS = "raw_rows"
_TEXT = "VARCHAR"


def drop_type(column: Column) -> str:
    """The type of a column in a drop."""
    return "TIMESTAMP_NS" if column.type == "date" else duckdb_type(column)


def create_raw_rows(contract: Contract, kinds: Mapping[str, pa.DataType | None]) -> str:
    """The rows of RAW_FILES as RAW_ROWS, with the entity and the timestamp where these are derived."""
    derived = [contract.columns[name] for name in (contract.entity, contract.timestamp) if name in contract.derived]
    if not derived:
        return f"CREATE TEMP VIEW {RAW_ROWS} AS SELECT * FROM {RAW_FILES}"
    names = contract.sources("entity", "timestamp")
    values = {name: _cast(name, duckdb_type(contract.columns[name]), kinds) for name in names}
    inputs, computed = select_row_values(contract, derived, values)
    own = ", ".join(f"{value} AS {identifier(name)}" for name, value in computed.items())
    return f"CREATE TEMP VIEW {RAW_ROWS} AS SELECT *, {own} FROM (SELECT *, {inputs} FROM {RAW_FILES})"


def select_newest(contract: Contract, columns: Mapping[str, str], kinds: Mapping[str, pa.DataType | None]) -> str:
    """One row per entity, sorted by entity: the columns of its newest row in RAW_ROWS, with the types of a drop.

    `kinds` are the columns of RAW_ROWS: floats and decimals with their types, which give text of their own, others
    with None.
    """
    casts = ", ".join(f"{_cast(name, kind, kinds)} AS {identifier(name)}" for name, kind in columns.items())
    entity, when = identifier(contract.entity), identifier(contract.timestamp)
    attributes = [name for name in columns if name not in (contract.entity, contract.timestamp)]
    # the attributes are compared too, so that their values and not the order of files decide between rows of one day
    packed = ", ".join(f"{identifier(name)} := {identifier(name)}" for name in attributes)
    unknown = f"CAST(TIMESTAMP '1970-01-01' AS {columns[contract.timestamp]})"
    newest = f"max(struct_pack(at := coalesce({when}, {unknown}), {packed}))"
    own = {contract.entity: entity, contract.timestamp: f"newest.at AS {when}"}
    select = ", ".join(own.get(name, f"newest.{identifier(name)} AS {identifier(name)}") for name in columns)
    return (
        f"SELECT {select} FROM (SELECT {entity}, {newest} AS newest FROM (SELECT {casts} FROM {RAW_ROWS}) "
        f"WHERE {entity} IS NOT NULL GROUP BY {entity}) ORDER BY {entity}"
    )


def _cast(name: str, kind: str, kinds: Mapping[str, pa.DataType | None]) -> str:
    """A raw column in the drop's type, null where there is none or a value cannot be cast."""
    if name not in kinds:
        return f"CAST(NULL AS {kind})"
    number = kinds[name]
    if kind == _TEXT and number is not None:
        return number_text(number, identifier(name))
    return f"TRY_CAST({identifier(name)} AS {kind})"
