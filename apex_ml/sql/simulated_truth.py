"""The simulator's probabilities beside the rows they belong to: DuckDB SQL."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from apex_ml.contract.model import Contract
from apex_ml.sql.parquet import scan_parquet
from apex_ml.sql.quote import identifier


def select_truth(contract: Contract, path: Path, columns: Iterable[str]) -> str:
    """Join the file's columns to the relation `asked` by entity and timestamp: one row for each `place`, in row."""
    entity, when = identifier(contract.entity), identifier(contract.timestamp)
    values = ", ".join(f"any_value(t.{identifier(c)}) AS {identifier(c)}" for c in columns)
    return (
        f"SELECT a.place, {values} FROM asked AS a LEFT JOIN {scan_parquet(path)} AS t"
        f" ON t.{entity} = a.{entity} AND t.{when} = a.{when} GROUP BY a.place ORDER BY a.place"
    )
