"""Counts and newest dates of a batch of accepted rows, in one pass: DuckDB SQL."""

from __future__ import annotations

from collections.abc import Iterable

from apex_ml.contract.model import Contract
from apex_ml.sql.file_types import level_sql
from apex_ml.sql.quote import identifier, literal
from apex_ml.sql.row_time import day_sql


def select_profile(contract: Contract, source: str, share: float, domains: Iterable[tuple[str, Iterable[str]]]) -> str:
    """One row: rows, newest day, the day up to which a share of the rows is dated, nulls by column, rows by level.

    The days are null for a contract without timestamp.
    """
    select = ["count(*)", "CAST(NULL AS DATE)", "CAST(NULL AS DATE)"]
    if contract.has_timestamp:
        day = day_sql(contract)
        select[1:] = [f"max({day})", f"CAST(quantile_disc({day}, {share}) AS DATE)"]
    select += [f"count(*) - count({identifier(name)})" for name in contract.columns]
    select += [
        f"count(*) FILTER (WHERE {level_sql(contract.columns[name], identifier(name))} = {literal(level)})"
        for name, levels in domains
        for level in levels
    ]
    return f"SELECT {', '.join(select)} FROM {source}"
