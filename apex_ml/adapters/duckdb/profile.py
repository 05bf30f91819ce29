"""Profile a batch of accepted files in one pass of DuckDB."""

from __future__ import annotations

from pathlib import Path

import duckdb

from apex_ml.adapters.duckdb.engine import errors_name, one_row
from apex_ml.contract.batch import FutureDateOutlierRule
from apex_ml.contract.model import Contract
from apex_ml.core.batch import Profile
from apex_ml.errors import DataError
from apex_ml.sql.parquet import scan_parquet
from apex_ml.sql.profile import select_profile


def profile_batch(con: duckdb.DuckDBPyConnection, contract: Contract, accepted: Path) -> Profile:
    """Count rows, nulls and levels, and find the newest dates.

    Raises :class:`~apex_ml.errors.DataError` when there are no rows.
    """
    share = next((r.share for r in contract.batch.rules if isinstance(r, FutureDateOutlierRule)), 0.999)
    domains = [(c.name, c.domain.levels) for c in contract.columns.values() if c.domain is not None]
    query = select_profile(contract, scan_parquet(accepted / "*.parquet"), share, domains)
    with errors_name("the accepted rows"):
        rows, newest, nearly_newest, *counts = one_row(con, query)
    if not rows:
        raise DataError("the raw files hold no acceptable row")
    nulls = dict(zip(contract.columns, counts, strict=False))
    rest = iter(counts[len(contract.columns) :])
    levels = {name: {level: next(rest) for level in names} for name, names in domains}
    return Profile(rows, nulls, levels, newest, nearly_newest)
