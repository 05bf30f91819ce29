"""Several accepted rows of one key: the latest one stays, or the run is refused."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

import duckdb

from apex_ml.adapters.duckdb import engine
from apex_ml.adapters.duckdb.accepted_rows import accepted_files, rewrite_file
from apex_ml.contract.model import Contract
from apex_ml.errors import DataError
from apex_ml.sql.repeated_keys import COUNT_LATEST, copy_latest, create_latest_table, select_repeated_keys
from apex_ml.text import visible
from apex_ml.wording import counted

logger = logging.getLogger(__name__)
SHOWN = 3


def settle_repeated_keys(con: duckdb.DuckDBPyConnection, contract: Contract, accepted: Path, rows: int) -> int:
    """Leave only the latest accepted row of each key, as `repeated_keys` of the contract says; returns how many went.

    `rows` is the number of accepted rows. Rows that are equal in all columns are deliveries of the same row, which
    `elt` leaves out. Raises :class:`~apex_ml.errors.DataError` with a few keys for `refuse`.
    """
    files = accepted_files(accepted)
    if not contract.named("key") or not files:
        return 0
    with engine.errors_name("the accepted rows"):
        keys = con.execute(select_repeated_keys(contract, files, SHOWN)).fetchall()
        if not keys:
            return 0
        if contract.repeated_keys == "refuse":
            shown = ", ".join(f"{visible(key)!r} ({counted(n, 'row')})" for key, n, _ in keys)
            name = " and ".join(contract.named("key"))
            raise DataError(
                f"{counted(keys[0][2], 'key')} of {name} with several rows that differ, as {shown}; correct the raw"
                " files, or write repeated_keys: latest in the contract, which takes the newest row of each"
            )
        con.execute(create_latest_table(contract, files))
        (kept,) = engine.one_row(con, COUNT_LATEST)
        for number, file in enumerate(files):
            rewrite_file(con, file, partial(copy_latest, contract, file, number))
    logger.info("rows_superseded rows=%s", rows - kept)
    return int(rows - kept)
