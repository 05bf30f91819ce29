"""Counts over checked rows of a file: DuckDB SQL."""

from __future__ import annotations

from apex_ml.contract.model import Contract
from apex_ml.sql.features import class_sql
from apex_ml.sql.quote import identifier


def count_classes(contract: Contract, query: str) -> str:
    """Rows by class, of the rows that a query returns. Rows without a class are left out."""
    known = f"{identifier(contract.target)} IS NOT NULL"
    return f"SELECT {class_sql(contract)}, count(*) FROM ({query}) WHERE {known} GROUP BY 1"
