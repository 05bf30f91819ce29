"""A seeded sample of the accepted rows of a run: whole entities, or rows where there is no entity."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import duckdb
import pyarrow.parquet as pq

from apex_ml.adapters.duckdb import engine
from apex_ml.adapters.duckdb.accepted_rows import accepted_files, rewrite_file
from apex_ml.contract.model import Contract
from apex_ml.sql.sample import copy_sample, select_cut

MIN_FILLED = 0.5
"""Share of a limit that whole entities must fill; with less single rows are drawn instead."""
ROWS_OF_AN_EXAMPLE = 10


@dataclass(frozen=True)
class Sample:
    """The rows that are left. `entities` counts whole entities; None where single rows were drawn."""

    rows: int
    of_rows: int
    entities: int | None = None
    splits_entities: bool = False
    """Single rows were drawn although there are entities, so that histories are shorter than they are."""

    @property
    def is_whole(self) -> bool:
        """Whether no row was left out."""
        return self.rows == self.of_rows


def sample_accepted(
    con: duckdb.DuckDBPyConnection, contract: Contract, accepted: Path, max_examples: int, seed: int
) -> Sample:
    """Leave the accepted rows of at most `max_examples` examples in the folder; more only when all rows are alike.

    Whole entities are drawn, so that histories stay complete; where each is one example, they may have
    ROWS_OF_AN_EXAMPLE rows on average. Where a few entities hold most rows, whole ones do not give about that many:
    then rows are drawn by their key, or by all their values, so that repeated deliveries stay together.
    """
    files = accepted_files(accepted)
    rows = sum(pq.read_metadata(file).num_rows for file in files)
    one_each = contract.has_history and contract.features.grain == "last_row_per_entity"
    max_rows = max_examples * (ROWS_OF_AN_EXAMPLE if one_each else 1)
    if rows <= max_examples:
        return Sample(rows, rows)
    with engine.errors_name("the accepted rows"):
        if contract.has_entity:
            query = select_cut(files, [contract.entity], seed, max_rows, max_examples)
            cut, kept, drawn = engine.one_row(con, query)
            filled = cut is not None and (kept == rows or max(kept / max_rows, drawn / max_examples) >= MIN_FILLED)
            if filled:
                _leave(con, files, (contract.entity,), seed, cut)
                return Sample(int(kept), rows, entities=drawn)
        columns = contract.named("key") or tuple(contract.columns)
        cut, kept, _ = engine.one_row(con, select_cut(files, columns, seed, max_rows, max_rows))
        if cut is None:
            return Sample(rows, rows)
        _leave(con, files, columns, seed, cut)
    return Sample(int(kept), rows, splits_entities=contract.has_entity and kept < rows)


def _leave(con: duckdb.DuckDBPyConnection, files: list[Path], columns: tuple[str, ...], seed: int, cut: int) -> None:
    for file in files:
        rewrite_file(con, file, partial(copy_sample, file, columns, seed, cut))
