"""Step split: examples to train, validation and test."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import date, timedelta
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from apex_ml.adapters.duckdb import engine
from apex_ml.contract.model import Contract
from apex_ml.contract.time_units import EPOCH
from apex_ml.core.drift import drift
from apex_ml.core.row_time import days_of
from apex_ml.core.split import PARTS
from apex_ml.core.strategies import split_strategy
from apex_ml.errors import ConfigError, DataError
from apex_ml.services.accepted_rows import load_rows
from apex_ml.services.results import EltResult, SplitPart, SplitResult
from apex_ml.services.run_folder import StepContext, run_step, step_manifest
from apex_ml.services.run_layout import ACCEPTED, EXAMPLES
from apex_ml.sql.rows import select_measure_sums
from apex_ml.wording import counted

logger = logging.getLogger(__name__)


def split(context: StepContext, *, strategy: str) -> SplitResult:
    """Write ``train.parquet``, ``validation.parquet`` and ``test.parquet`` and report sizes, dates and class mix.

    `strategy` is the name of a module in :mod:`apex_ml.core.strategies`.
    """
    source = step_manifest(context, EltResult)
    strategy = possible_strategy(context.contract, strategy)
    inputs = {"elt": source.key, "strategy": strategy, "seed": context.pipeline.options.model.seed}
    return run_step(context, SplitResult, inputs, lambda folder: _work(context, folder, strategy))


def possible_strategy(contract: Contract, strategy: str) -> str:
    """The strategy for the rows of a contract: one that takes its place, where they lack what the strategy needs.

    Raises :class:`~apex_ml.errors.ConfigError` when none does.
    """
    way = split_strategy(strategy)
    if all(map(contract.named, way.needs)):
        return strategy
    roles = " and ".join(way.needs)
    if way.without_needs is None:
        raise ConfigError(f"split: the strategy {strategy} needs columns with the roles {roles}")
    logger.info(
        "split_strategy name=%s instead_of=%s reason=no column has the role %s", way.without_needs, strategy, roles
    )
    return way.without_needs


def _day(days: int) -> date:
    return EPOCH + timedelta(days=days)


def _sum_measures(context: StepContext, folder: Path, measures: Sequence[str]) -> pa.Table:
    """The sums of measures over all accepted rows of each entity."""
    with engine.connect(context.settings, folder.parent) as con, engine.errors_name("split"):
        load_rows(con, context.contract, context.output("validate", ACCEPTED))
        return con.sql(select_measure_sums(context.contract, measures)).to_arrow_table()


def _work(context: StepContext, folder: Path, strategy: str) -> SplitResult:
    contract = context.contract
    way = split_strategy(strategy)
    examples = pq.read_table(context.output("elt", EXAMPLES))
    table = way.extend(contract, examples, partial(_sum_measures, context, folder))
    days = days_of(contract, table)
    target = table.column(contract.target).to_numpy(zero_copy_only=False)
    entities = table.column(contract.entity).to_numpy(zero_copy_only=False)
    parts = way.assign_rows(days, target, entities, contract.split, context.pipeline.options.model.seed)
    _refuse_empty(parts, len(target))
    columns = way.columns(contract)
    reference = table.filter(pa.array(parts == 0))
    described = {}
    for index, part in enumerate(PARTS):
        rows = table.filter(pa.array(parts == index))
        pq.write_table(rows, folder / f"{part}.parquet", compression="zstd")
        described[part] = _describe(contract, rows, days[parts == index])
        if index and rows.num_rows:
            # calendar and history features differ between the parts by nature: drift is reported, not tested
            psi = drift(columns, reference, rows)
            described[part] = replace(
                described[part], drift_from_train={name: round(value, 4) for name, value in psi.items()}
            )
            for name, largest in list(psi.items())[:1]:
                logger.info("drift part=%s largest=%s psi=%.3f", part, name, largest)
        logger.info("part=%s examples=%s", part, rows.num_rows)
    return SplitResult(
        run=context.run,
        step="split",
        strategy=strategy,
        promotable=way.is_promotable(contract),
        parts=described,
        left_out=int(np.sum(parts < 0)),
    )


def _refuse_empty(parts: np.ndarray, examples: int) -> None:
    """Raise :class:`~apex_ml.errors.DataError` when a part has no example."""
    for index, part in enumerate(PARTS):
        if not (parts == index).any():
            raise DataError(f"split: no examples are left for {part}: {counted(examples, 'example')} are too few")


def _describe(contract: Contract, rows: pa.Table, days: np.ndarray) -> SplitPart:
    counts = {c["values"]: c["counts"] for c in rows.column(contract.target).value_counts().to_pylist()}
    return SplitPart(
        examples=rows.num_rows,
        first=_day(int(days.min())),
        last=_day(int(days.max())),
        classes={level: int(counts.get(level, 0)) for level in contract.classes},
    )
