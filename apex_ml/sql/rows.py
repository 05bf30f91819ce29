"""The accepted rows as the relation `accepted_rows`, and their history beside other rows: DuckDB SQL."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from apex_ml.contract.history_state import state_columns
from apex_ml.contract.model import Contract
from apex_ml.sql.accepted_rows import select_columns, select_delivered_once
from apex_ml.sql.features import exact_sql
from apex_ml.sql.quote import identifier
from apex_ml.sql.session import create_temp_table

ROWS = "accepted_rows"


def create_rows_table(contract: Contract, files: Iterable[Path]) -> str:
    """Create `accepted_rows` as a table of the accepted rows without those that were delivered twice."""
    return create_temp_table(ROWS, select_delivered_once(contract, files))


def create_rows_view(contract: Contract, source: str) -> str:
    """Create `accepted_rows` as a view of a relation in which no row was delivered twice."""
    return f"CREATE TEMP VIEW {ROWS} AS {select_columns(contract, source)}"


def select_with_state(contract: Contract, asked: str, state: str) -> str:
    """The columns of `asked` beside the state of each row's (entity, timestamp)."""
    entity, when = identifier(contract.entity), identifier(contract.timestamp)
    names = ", ".join(f"s.{identifier(name)}" for name, *_ in state_columns(contract))
    return (
        f"SELECT a.*, {names} FROM {asked} AS a JOIN ({state}) AS s ON s.{entity} = a.{entity} AND s.{when} = a.{when}"
    )


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
