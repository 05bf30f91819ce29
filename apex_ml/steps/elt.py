"""Step elt: accepted orders to examples with features as of the moment, and the history snapshot for scoring."""

from __future__ import annotations

import logging
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from apex_ml.adapters import duck
from apex_ml.adapters.store import sha256_of
from apex_ml.contract.masks import literal, quoted
from apex_ml.contract.model import Contract
from apex_ml.core.features import examples_sql, finish, snapshot_sql, state_columns, state_sql
from apex_ml.errors import DataError
from apex_ml.steps.folder import StepContext, read_manifest, run_step
from apex_ml.steps.validate import ACCEPTED

logger = logging.getLogger(__name__)
EXAMPLES = "examples.parquet"
SNAPSHOT = "snapshot.parquet"
BATCH_ROWS = 131_072


def elt(context: StepContext) -> dict[str, Any]:
    """Build one example a client's last order, and one row a client of history as of `as_of`.

    Rows that stand in several files are taken once and counted. Raises :class:`~apex_ml.errors.DataError` when no
    order lies before `as_of`.
    """
    validated = read_manifest(context.folder("validate"))
    inputs = {"validate": validated["key"], "data_sha256": validated["result"]["data_sha256"]}
    as_of = date.fromisoformat(validated["result"]["as_of"])
    return run_step(context, "elt", inputs, lambda folder: _work(context, folder, as_of, validated["result"]))


def load_orders(con: duckdb.DuckDBPyConnection, contract: Contract, accepted: Path) -> tuple[int, int]:
    """Make the relation `orders` of the accepted files, each row once. Returns (rows, repeated rows)."""
    columns = ", ".join(map(quoted, contract.columns))
    source = f"read_parquet({literal(str(accepted / '*.parquet'))})"
    rows, repeated = duck.one_row(con, f"SELECT count(*), count(*) - count(DISTINCT hash({columns})) FROM {source}")
    if repeated:
        # DISTINCT compares the rows themselves: two rows that merely share a hash both stay
        con.execute(f"CREATE TEMP TABLE orders AS SELECT DISTINCT {columns} FROM {source}")
        (kept,) = duck.one_row(con, "SELECT count(*) FROM orders")
        repeated = rows - kept
    else:
        con.execute(f"CREATE TEMP VIEW orders AS SELECT {columns} FROM {source}")
    return rows, repeated


def with_state_sql(contract: Contract, asked: str, state: str) -> str:
    """SQL: the columns of `asked` beside the state of each row's (entity, timestamp)."""
    entity, when = quoted(contract.entity), quoted(contract.timestamp)
    names = ", ".join(f"s.{quoted(name)}" for name, _, _ in state_columns(contract))
    return (
        f"SELECT a.*, {names} FROM {asked} AS a JOIN ({state}) AS s ON s.{entity} = a.{entity} AND s.{when} = a.{when}"
    )


def _work(context: StepContext, folder: Path, as_of: date, validated: dict[str, Any]) -> dict[str, Any]:
    contract = context.contract
    accepted = context.folder("validate") / ACCEPTED
    entity, when = quoted(contract.entity), quoted(contract.timestamp)
    with duck.connect(context.settings, folder.parent) as con, duck.errors_name("elt"):
        rows, repeated = load_orders(con, contract, accepted)
        con.execute(f"CREATE TEMP TABLE asked AS {examples_sql(contract, 'orders')}")
        query = with_state_sql(contract, "asked", state_sql(contract, "asked", "orders"))
        examples = _write_examples(con, contract, f"{query} ORDER BY a.{when}, a.{entity}", folder / EXAMPLES)
        con.execute(
            f"COPY ({snapshot_sql(contract, 'orders', as_of)}) TO {literal(str(folder / SNAPSHOT))} (FORMAT parquet)"
        )
    if not examples:
        raise DataError("elt: the accepted rows hold no order to learn from")
    snapshot = pq.read_metadata(folder / SNAPSHOT).num_rows
    logger.info("elt rows=%s repeated=%s examples=%s entities=%s", rows, repeated, examples, snapshot)
    return {
        "rows": rows,
        "repeated": repeated,
        "examples": examples,
        "entities": snapshot,
        "as_of": as_of.isoformat(),
        "data_sha256": validated["data_sha256"],
        "features_sha256": contract.features_digest(),
        "snapshot_sha256": sha256_of(folder / SNAPSHOT),
    }


def _write_examples(con: duckdb.DuckDBPyConnection, contract: Contract, query: str, path: Path) -> int:
    """Stream the examples through `finish` into one parquet file; returns their number."""
    key = contract.named("entity", "timestamp", "target")
    writer: pq.ParquetWriter | None = None
    rows = 0
    reader = con.sql(query).to_arrow_reader(BATCH_ROWS)
    try:
        for batch in reader:
            table = pa.Table.from_batches([batch])
            finished = finish(contract, table)
            columns = {name: table.column(name) for name in key}
            columns |= {name: finished.column(name) for name in finished.column_names}
            out = pa.table(columns)
            writer = writer or pq.ParquetWriter(path, out.schema, compression="zstd")
            writer.write_table(out.cast(writer.schema))
            rows += out.num_rows
    finally:
        if writer is not None:
            writer.close()
    return rows
