"""Raw rows that are held back from training: a drop of real rows that no model has learned from.

They are those of the newest day, or of rows without dates a random part.
"""

from __future__ import annotations

from datetime import date, timedelta
from functools import partial
from pathlib import Path

import duckdb
import pyarrow.parquet as pq

from apex_ml.adapters.duckdb import engine
from apex_ml.adapters.duckdb.accepted_rows import accepted_files, rewrite_file
from apex_ml.adapters.storage.files import digest, sha256_of
from apex_ml.contract.model import Contract
from apex_ml.services.results import HeldBack, ValidateResult
from apex_ml.services.run_folder import StepContext, latest_manifest
from apex_ml.services.run_layout import HELD_BACK
from apex_ml.sql.held_back import copy_others, count_held, count_held_in, is_held, select_held


def held_identity(shas: list[str]) -> str:
    """The identity of raw files without their newest day."""
    return digest([*shas, "without the newest day"])


def hold_back(
    con: duckdb.DuckDBPyConnection, contract: Contract, accepted: Path, newest: date | None, folder: Path
) -> int:
    """Move the accepted rows of the newest day out of `accepted`; returns how many, 0 when no others would be left.

    Without dates it is a random part of the rows, by their content.

    They are written to HELD_BACK in `folder` as a drop: the columns of a file without target and measures.
    The same raw rows give the same bytes, whatever their files.
    """
    is_newest = is_held(contract, newest)
    files = accepted_files(accepted)
    with engine.errors_name("the accepted rows"):
        held, rest = engine.one_row(con, count_held(files, is_newest))
        if not rest or not held:
            return 0
        names = contract.columns_of_drop()
        table = con.sql(select_held(contract, files, names, is_newest)).to_arrow_table()
        pq.write_table(table, folder / HELD_BACK, compression="zstd")
        for file in files:
            (held_in_file,) = engine.one_row(con, count_held_in(file, is_newest))
            if held_in_file:
                rewrite_file(con, file, partial(copy_others, file, is_newest))
    return int(held)


def point_in_time(context: StepContext, newest: date | None, *, is_held_back: bool = False) -> date:
    """The day that a run looks from: that after the newest day of the rows, or the newest day when it is held back.

    Of rows without dates it is today.
    """
    if newest is None:
        return context.settings.now().date()
    return newest if is_held_back else newest + timedelta(days=1)


def describe(folder: Path, newest: date | None) -> HeldBack:
    """Day, number and sha256 of the rows that :func:`hold_back` wrote."""
    path = folder / HELD_BACK
    return HeldBack(day=newest, rows=pq.read_metadata(path).num_rows, sha256=sha256_of(path))


def find_held_back(context: StepContext, data_sha256: str) -> tuple[HeldBack, Path] | None:
    """What a finished run held back of raw files with this identity, and its file; None without such a run."""
    manifest = latest_manifest(
        context, ValidateResult, lambda m: m.result.data_sha256 == data_sha256 and m.result.held_back is not None
    )
    if manifest is None or manifest.result.held_back is None:
        return None
    path = context.runs.output(manifest.run, "validate", HELD_BACK, manifest.outputs)
    return (manifest.result.held_back, path) if path.is_file() else None
