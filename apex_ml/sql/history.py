"""The rows in a compact form, sorted, for one pass over their history: DuckDB SQL."""

from __future__ import annotations

from apex_ml.contract.history_state import distinct_attributes
from apex_ml.contract.model import Contract
from apex_ml.contract.names import KEY, PLACE, POSITION, TIME, exact_name
from apex_ml.sql.features import code_sql, exact_sql, place_sql
from apex_ml.sql.quote import identifier, identifiers
from apex_ml.sql.row_time import time_sql


def select_compact(contract: Contract, rows: str, by: tuple[str, ...] = ()) -> str:
    """SQL: the columns that the history needs, as integers. `rows` must have the column `POSITION` too.

    With `by` it is a history by other columns, and `rows` must have the number `KEY` of their values.
    """
    of_time = "BIGINT" if contract.has_instants else "INTEGER"
    time = f"CAST({time_sql(contract, 'o')} AS {of_time}) AS {TIME}"
    columns = [f"o.{KEY if by else identifier(contract.entity)}", time]
    columns.append(f"CAST({place_sql(contract, 'o')} AS SMALLINT) AS {PLACE}")
    columns += [f"{exact_sql(contract, m, 'o')} AS {identifier(exact_name(m))}" for m in contract.named("measure")]
    columns += [
        f"{code_sql(contract, name, 'o')} AS {identifier(exact_name(name))}"
        for name in distinct_attributes(contract, by)
    ]
    return f"SELECT {', '.join(columns)}, o.{POSITION} FROM {rows} AS o"


def select_sorted(contract: Contract, compact: str) -> str:
    """SQL: the rows of :func:`select_compact` by entity and day. A longer key would make the sort much slower."""
    return f"SELECT * FROM {compact} ORDER BY {identifier(contract.entity)}, {TIME}"


def select_keys(by: tuple[str, ...], rows: str) -> str:
    """SQL: every combination of known values of the columns, and its number `KEY` from 0 in their sequence."""
    names = identifiers(by)
    known = " AND ".join(f"{identifier(name)} IS NOT NULL" for name in by)
    return (
        f"SELECT row_number() OVER (ORDER BY {names}) - 1 AS {KEY}, {names}"
        f" FROM (SELECT DISTINCT {names} FROM {rows} WHERE {known}) ORDER BY {KEY}"
    )


def select_sorted_by(contract: Contract, rows: str, keys: str, by: tuple[str, ...]) -> str:
    """SQL: the rows in compact form by the number of their values in the relation `keys`, and day."""
    numbered = f"(SELECT * FROM {rows} JOIN {keys} USING ({identifiers(by)}))"
    return f"SELECT * FROM ({select_compact(contract, numbered, by)}) ORDER BY {KEY}, {TIME}"


def select_alike(contract: Contract, compact: str) -> str:
    """SQL: positions of the rows of :func:`select_compact` that equal another one in entity, day, target and measures.

    Only these can be repeated rows. A few others may be among them, as hashes are compared.
    """
    keys = [identifier(contract.entity), TIME, PLACE, *(identifier(exact_name(m)) for m in contract.named("measure"))]
    return f"SELECT {POSITION} FROM {compact} QUALIFY count(*) OVER (PARTITION BY hash({', '.join(keys)})) > 1"
