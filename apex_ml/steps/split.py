"""Step split: examples to train, validation and test."""

from __future__ import annotations

import logging
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from apex_ml.adapters.duckdb import engine
from apex_ml.core.drift import drift
from apex_ml.core.split import PARTS
from apex_ml.core.strategies import split_strategy
from apex_ml.services.accepted_orders import load_orders
from apex_ml.services.run_folder import StepContext, read_manifest, run_step
from apex_ml.services.run_layout import ACCEPTED, EXAMPLES

logger = logging.getLogger(__name__)
EPOCH = date(1970, 1, 1)


def split(context: StepContext, *, strategy: str) -> dict[str, Any]:
    """Write ``train.parquet``, ``validation.parquet`` and ``test.parquet`` and tell sizes, dates and class mix.

    `strategy` is the name of a module in :mod:`apex_ml.core.strategies`.
    """
    made = read_manifest(context.folder("elt"))
    inputs = {"elt": made["key"], "strategy": strategy, "seed": context.settings.seed}
    return run_step(context, "split", inputs, lambda folder: _work(context, folder, strategy))


def _day(days: int) -> str:
    return (EPOCH + timedelta(days=days)).isoformat()


def _query_orders(context: StepContext, folder: Path, sql: str) -> pa.Table:
    """The result of SQL over the accepted orders, which are the table `orders`."""
    with engine.connect(context.settings, folder.parent) as con, engine.errors_name("split"):
        load_orders(con, context.contract, context.folder("validate") / ACCEPTED)
        return con.sql(sql).to_arrow_table()


def _work(context: StepContext, folder: Path, strategy: str) -> dict[str, Any]:
    contract = context.contract
    way = split_strategy(strategy)
    table = way.extend(
        contract, pq.read_table(context.folder("elt") / EXAMPLES), lambda sql: _query_orders(context, folder, sql)
    )
    days = table.column(contract.timestamp).cast(pa.int32()).to_numpy()
    target = table.column(contract.target).to_numpy(zero_copy_only=False)
    parts = way.assign(days, target, contract.split, context.settings.seed)
    result: dict[str, Any] = {"strategy": strategy, "promotable": way.promotable, "parts": {}}
    columns = way.columns(contract)
    reference = table.filter(pa.array(parts == 0))
    for index, part in enumerate(PARTS):
        rows = table.filter(pa.array(parts == index))
        pq.write_table(rows, folder / f"{part}.parquet", compression="zstd")
        counts = {c["values"]: c["counts"] for c in rows.column(contract.target).value_counts().to_pylist()}
        chosen = days[parts == index]
        result["parts"][part] = {
            "examples": rows.num_rows,
            "first": _day(int(chosen.min())),
            "last": _day(int(chosen.max())),
            "classes": {level: int(counts.get(level, 0)) for level in contract.classes},
        }
        if index and rows.num_rows:
            # what moves between the parts by nature (calendar, history) moves here too: it is told, not judged
            found = drift(columns, reference, rows)
            result["parts"][part]["drift_from_train"] = {name: round(psi, 4) for name, psi in found.items()}
            name, psi = next(iter(found.items()))
            logger.info("drift part=%s largest=%s psi=%.3f", part, name, psi)
        logger.info("part=%s examples=%s", part, rows.num_rows)
    result["left_out"] = int(np.sum(parts < 0))
    return result
