"""The history snapshot as one query, beside which the one of a run is compared."""

from __future__ import annotations

from datetime import date

from apex_ml.contract.history_state import state_columns
from apex_ml.contract.model import Contract
from apex_ml.sql.features import select_state
from apex_ml.sql.quote import identifier, literal


def select_snapshot(contract: Contract, rows: str, as_of: date) -> str:
    """SQL: the state of every entity before a time, one row per entity, ordered by entity."""
    entity, when = identifier(contract.entity), identifier(contract.timestamp)
    asked = f"(SELECT {entity}, {literal(as_of)} AS {when} FROM {rows})"
    names = ", ".join([entity, *(identifier(name) for name, *_ in state_columns(contract))])
    return f"SELECT {names} FROM ({select_state(contract, asked, rows)}) ORDER BY {entity}"
