"""The accepted rows as the relation `accepted_rows`, and their history beside other rows: DuckDB SQL."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from apex_ml.contract.history_state import history_keys, state_columns
from apex_ml.contract.model import Contract
from apex_ml.sql.accepted_rows import select_columns, select_delivered_once
from apex_ml.sql.features import exact_sql, select_state
from apex_ml.sql.history_days import select_state_by
from apex_ml.sql.quote import identifier
from apex_ml.sql.session import create_temp_table

ROWS = "accepted_rows"


def create_rows_table(contract: Contract, files: Iterable[Path]) -> str:
    """Create `accepted_rows` as a table of the accepted rows without those that were delivered twice."""
    return create_temp_table(ROWS, select_delivered_once(contract, files))


def create_rows_view(contract: Contract, source: str) -> str:
    """Create `accepted_rows` as a view of a relation in which no row was delivered twice."""
    return f"CREATE TEMP VIEW {ROWS} AS {select_columns(contract, source)}"


def select_with_state(contract: Contract, asked: str, rows: str) -> str:
    """The columns of `asked` beside the state of each row's history, from the relation `rows`."""
    entity, when = identifier(contract.entity), identifier(contract.timestamp)
    names = ", ".join(f"s.{identifier(name)}" for name, *_ in state_columns(contract))
    select, joins = f"SELECT a.*, {names}", f"s.{entity} = a.{entity} AND s.{when} = a.{when}"
    query = f"FROM {asked} AS a JOIN ({select_state(contract, asked, rows)}) AS s ON {joins}"
    for nr, by in enumerate(history_keys(contract)):
        select += "".join(f", s{nr}.{identifier(name)}" for name, *_ in state_columns(contract, by))
        same = [f"s{nr}.{name} IS NOT DISTINCT FROM a.{name}" for name in map(identifier, by)]
        state = select_state_by(contract, asked, rows, by)
        query += f" JOIN ({state}) AS s{nr} ON {' AND '.join(same)} AND s{nr}.{when} = a.{when}"
    return f"{select} {query}"


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
