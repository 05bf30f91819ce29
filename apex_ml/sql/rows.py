"""The accepted rows as the relation `accepted_rows`, and their history beside other rows: DuckDB SQL."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from apex_ml.contract.history_state import history_keys, state_columns
from apex_ml.contract.model import Contract
from apex_ml.contract.names import KEY, POSITION
from apex_ml.sql.accepted_rows import KEYS, select_columns, select_delivered_once
from apex_ml.sql.features import exact_sql, select_state
from apex_ml.sql.history import select_keys, select_sorted_by
from apex_ml.sql.quote import identifier, identifiers
from apex_ml.sql.session import create_temp_table, replace_temp_table

ROWS = "accepted_rows"


def create_rows_table(contract: Contract, files: Iterable[Path]) -> str:
    """Create `accepted_rows` as a table of the accepted rows without those that were delivered twice."""
    return create_temp_table(ROWS, select_delivered_once(contract, files))


def create_rows_view(contract: Contract, source: str) -> str:
    """Create `accepted_rows` as a view of a relation in which no row was delivered twice."""
    return f"CREATE TEMP VIEW {ROWS} AS {select_columns(contract, source)}"


def select_with_state(contract: Contract, asked: str, rows: str) -> str:
    """The columns of `asked` beside the state of each row's history, from the relation `rows`.

    That by other columns is from the relations :func:`states_by`; null where there is none.
    """
    entity, when = identifier(contract.entity), identifier(contract.timestamp)
    names = ", ".join(f"s.{identifier(name)}" for name, *_ in state_columns(contract))
    select, joins = f"SELECT a.*, {names}", f"s.{entity} = a.{entity} AND s.{when} = a.{when}"
    query = f"FROM {asked} AS a JOIN ({select_state(contract, asked, rows)}) AS s ON {joins}"
    for nr, by in enumerate(history_keys(contract)):
        select += "".join(f", s{nr}.{identifier(name)}" for name, *_ in state_columns(contract, by))
        same = [f"s{nr}.{name} = a.{name}" for name in map(identifier, by)]
        query += f" LEFT JOIN {states_by(nr)} AS s{nr} ON {' AND '.join(same)} AND s{nr}.{when} = a.{when}"
    return f"{select} {query}"


def states_by(nr: int) -> str:
    """Name of the relation with the state of the `nr`-th history by other columns, for asked rows."""
    return f"states_by_{nr}"


def create_asked_keys(by: tuple[str, ...], asked: str) -> str:
    """Keep the known values of columns in the relation `asked`, with their numbers, in the table KEYS."""
    return replace_temp_table(KEYS, select_keys(by, asked))


def select_asked(contract: Contract, by: tuple[str, ...], asked: str) -> str:
    """The different values and times of the relation `asked`, by the number of the values in KEYS and time."""
    names, when = identifiers((*by, contract.timestamp)), identifier(contract.timestamp)
    requested = f"SELECT DISTINCT {names} FROM {asked}"
    return f"SELECT {KEY}, {names} FROM ({requested}) JOIN {KEYS} USING ({identifiers(by)}) ORDER BY {KEY}, {when}"


def select_rows_of_keys(contract: Contract, by: tuple[str, ...]) -> str:
    """The accepted rows with values in KEYS, in compact form, by the number of these values and time."""
    return select_sorted_by(contract, f"(SELECT *, 0 AS {POSITION} FROM {ROWS})", KEYS, by)


def select_measure_sums(contract: Contract, measures: Iterable[str]) -> str:
    """The sum of each measure over all rows of an entity, one row per entity.

    Sums are of integers in the measure's smallest unit, so that they do not depend on the order of rows.
    """
    sums = [
        f"sum({exact_sql(contract, measure, 'o')}) / {contract.columns[measure].scale} AS {identifier(measure)}"
        for measure in measures
    ]
    entity = identifier(contract.entity)
    return f"SELECT {', '.join([f'o.{entity}', *sums])} FROM {ROWS} AS o GROUP BY o.{entity}"
