"""Profile a batch of accepted files in one pass of DuckDB."""

from __future__ import annotations

from pathlib import Path

import duckdb

from apex_ml.adapters.duckdb.engine import errors_name, one_row
from apex_ml.contract.batch import FutureDateOutlierRule
from apex_ml.contract.model import Contract
from apex_ml.core.batch import Profile
from apex_ml.errors import DataError
from apex_ml.sql.quote import identifier, literal


def profile_batch(con: duckdb.DuckDBPyConnection, contract: Contract, accepted: Path) -> Profile:
    """Count rows, nulls and levels, and find the newest dates.

    Raises :class:`~apex_ml.errors.DataError` when there is no row.
    """
    source = f"read_parquet({literal(str(accepted / '*.parquet'))})"
    when = identifier(contract.timestamp)
    share = next((r.share for r in contract.batch.rules if isinstance(r, FutureDateOutlierRule)), 0.999)
    domains = [(c.name, c.domain.levels) for c in contract.columns.values() if c.domain is not None]
    select = ["count(*)", f"max({when})", f"CAST(quantile_disc({when}, {share}) AS DATE)"]
    select += [f"count(*) - count({identifier(name)})" for name in contract.columns]
    select += [
        f"count(*) FILTER (WHERE {identifier(name)} = {literal(level)})" for name, levels in domains for level in levels
    ]
    with errors_name("the accepted rows"):
        rows, newest, nearly_newest, *counts = one_row(con, f"SELECT {', '.join(select)} FROM {source}")
    if not rows:
        raise DataError("the raw files hold no acceptable row")
    nulls = dict(zip(contract.columns, counts, strict=False))
    rest = iter(counts[len(contract.columns) :])
    levels = {name: {level: next(rest) for level in names} for name, names in domains}
    return Profile(rows, nulls, levels, newest, nearly_newest)
