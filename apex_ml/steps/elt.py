"""Step elt: turn accepted rows into examples with point-in-time features, and write the history snapshot."""

from __future__ import annotations

import hashlib
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from apex_ml.adapters.duckdb import engine
from apex_ml.adapters.duckdb.accepted_rows import (
    BATCH_ROWS,
    CodedColumns,
    SortedRows,
    accepted_files,
)
from apex_ml.adapters.storage.files import sha256_of
from apex_ml.contract.history_state import history_keys
from apex_ml.contract.model import Contract
from apex_ml.contract.names import POSITION, snapshot_by
from apex_ml.core.features import finish, level_texts, row_inputs
from apex_ml.core.history import Replay, settle_by_attributes
from apex_ml.core.history_by import StatesBy
from apex_ml.core.row_time import time_from, time_value, times_of
from apex_ml.errors import DataError
from apex_ml.services.results import EltResult, ValidateResult
from apex_ml.services.run_folder import StepContext, run_step, step_manifest
from apex_ml.services.run_layout import ACCEPTED, EXAMPLES, SNAPSHOT
from apex_ml.sql.accepted_rows import select_delivered_once, select_time_span
from apex_ml.sql.plain_examples import select_sorted_examples

logger = logging.getLogger(__name__)


def elt(context: StepContext) -> EltResult:
    """Build an example for each row of the contract's grain, and one history row for each entity as of `as_of`.

    Rows that a second file delivers again are left out and counted; equal rows of one file all stay. Raises
    :class:`~apex_ml.errors.DataError` when no row is dated before `as_of`.
    """
    validated = step_manifest(context, ValidateResult)
    inputs = {"validate": validated.key, "data_sha256": validated.result.data_sha256}
    return run_step(context, EltResult, inputs, lambda folder: _work(context, folder, validated.result))


def _work(context: StepContext, folder: Path, validated: ValidateResult) -> EltResult:
    contract, as_of = context.contract, validated.as_of
    assert as_of is not None  # of a run that was not skipped
    files = accepted_files(context.output("validate", ACCEPTED))
    with engine.connect(context.settings, folder.parent) as con, engine.errors_name("elt"):
        write = _write_with_history if contract.has_history else _write_plain
        written = write(con, context, files, folder, as_of)
    if not written.examples:
        raise DataError("elt: the accepted rows hold no row to learn from")
    logger.info(
        "elt rows=%s repeated=%s examples=%s entities=%s",
        written.rows,
        written.repeated,
        written.examples,
        written.entities,
    )
    return EltResult(
        run=context.run,
        step="elt",
        raw=validated.raw,
        rows=written.rows,
        repeated=written.repeated,
        examples=written.examples,
        entities=written.entities,
        as_of=as_of,
        since=written.since if isinstance(written.since, datetime) else None,
        data_sha256=validated.data_sha256,
        features_sha256=contract.features_digest(),
        snapshot_sha256=_sha256_of_snapshots(contract, folder / SNAPSHOT),
    )


class Written(NamedTuple):
    """Counts of what was read and written."""

    rows: int
    repeated: int
    examples: int
    entities: int
    since: date | None = None


def _write_with_history(
    con: duckdb.DuckDBPyConnection, context: StepContext, files: Sequence[Path], folder: Path, as_of: date
) -> Written:
    contract, entities = context.contract, 0

    def write_by(states: StatesBy) -> None:
        pq.write_table(states.snapshot, snapshot_by(folder / SNAPSHOT, states.by), compression="zstd")

    def write_snapshot(states: pa.Table) -> None:
        nonlocal entities  # of which each can have several states
        entities += pc.count_distinct(states.column(contract.entity)).as_py()
        snapshot.write(states)

    with ParquetSink(folder / EXAMPLES) as examples, ParquetSink(folder / SNAPSHOT) as snapshot:
        accepted = SortedRows(con, contract, files)
        _warn_of_lag(con, contract, files)
        since = _snapshot_time(con, contract, files, as_of)
        for table in make_examples(accepted, context.settings.threads, since, write_snapshot, write_by):
            examples.write(table)
    return Written(accepted.rows, accepted.repeated, examples.rows, entities, time_from(contract, since))


def _warn_of_lag(con: duckdb.DuckDBPyConnection, contract: Contract, files: Sequence[Path]) -> None:
    """Log a warning when the lag leaves no row a history."""
    if not (contract.history_lag and contract.features.history):
        return
    first, newest = engine.one_row(con, select_time_span(contract, files))
    if first is not None and newest - contract.history_lag <= first:
        logger.warning(
            "no row has a history: features.%s is longer than the time from the first row, of %s, to the newest, of %s:"
            " shorten it, or remove features.history",
            contract.features.lag_text,
            *(time_from(contract, time) for time in (first, newest)),
        )


def _snapshot_time(con: duckdb.DuckDBPyConnection, contract: Contract, files: Sequence[Path], as_of: date) -> int:
    """The time from which on rows can be scored with the snapshot: `as_of`, or right after the newest row before it."""
    since = time_value(contract, as_of)
    if not contract.has_instants:
        return since
    _, newest = engine.one_row(con, select_time_span(contract, files))
    return since if newest is None else min(since, newest + 1)


def _write_plain(
    con: duckdb.DuckDBPyConnection, context: StepContext, files: Sequence[Path], folder: Path, as_of: date
) -> Written:
    with ParquetSink(folder / EXAMPLES) as examples, ParquetSink(folder / SNAPSHOT) as snapshot:
        for table in make_plain_examples(con, context.contract, files, as_of):
            examples.write(table)
        snapshot.write(pa.table({context.contract.entity: pa.array([], pa.string())}))  # there is no history
        since = _snapshot_time(con, context.contract, files, as_of)
    rows = sum(pq.read_metadata(file).num_rows for file in files)
    return Written(rows, rows - examples.rows, examples.rows, 0, time_from(context.contract, since))


def _sha256_of_snapshots(contract: Contract, snapshot: Path) -> str:
    """Sha256 of the snapshot; with histories by other columns that of the digests of all files."""
    digests = [sha256_of(snapshot_by(snapshot, by)) for by in ((), *history_keys(contract))]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


class ParquetSink:
    """A parquet file that is written table by table, with a count of its rows. Without a table no file is written."""

    def __init__(self, path: Path) -> None:
        self.rows = 0
        self._path = path
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> ParquetSink:
        return self

    def __exit__(self, *error: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def write(self, table: pa.Table) -> None:
        """Append a table; all have the schema of the first."""
        self._writer = self._writer or pq.ParquetWriter(self._path, table.schema, compression="zstd")
        self._writer.write_table(table.cast(self._writer.schema))
        self.rows += table.num_rows


def make_examples(
    accepted: SortedRows,
    threads: int,
    since: int | None = None,
    on_snapshot: Callable[[pa.Table], None] | None = None,
    on_states: Callable[[StatesBy], None] | None = None,
) -> Iterator[pa.Table]:
    """Examples with their features.

    Last rows come by time and entity, every row by entity and time. With `since` the snapshot for rows from that time
    on is passed on in parts, by entity. Rows are streamed; one row of integers per entity is kept in memory, and of a
    history by other columns eight bytes for each row and state. The states of each of these are passed on, too.
    """
    contract, files = accepted.contract, accepted.files
    inputs = [name for name in row_inputs(contract, ()) if name != contract.entity]
    names = tuple(dict.fromkeys((contract.target, *inputs)))

    states_by = []
    for by in history_keys(contract):
        keys = accepted.keys(by)
        states_by.append(StatesBy(contract, by, accepted.tables_by(by), keys, accepted.rows, since))
        if on_states is not None:
            on_states(states_by[-1])

    def replay(table: pa.Table) -> tuple[pa.Table, pa.Array | None, pa.Table | None]:
        replayed = Replay(contract, table)
        snapshot = None if since is None else replayed.snapshot(since)
        if contract.features.grain == "every_row":
            return _finished(contract, replayed.every_row(), columns.result(), states_by), None, snapshot
        return *replayed.last_rows(), snapshot

    parts: list[pa.Table] = []
    unsettled: list[pa.Array] = []
    with ThreadPoolExecutor(1) as reader:
        # read while the rows are sorted
        columns = reader.submit(CodedColumns, contract, files, names)
        for part, positions, snapshot in in_order(replay, accepted.tables(), threads):
            if on_snapshot is not None and snapshot is not None:
                on_snapshot(snapshot)
            if positions is None:
                yield part
            else:
                parts.append(part)
                unsettled.append(positions)
    if parts:
        states = _settled(contract, files, _in_one_piece(parts), pa.concat_arrays(unsettled))
        by_time = np.argsort(times_of(contract, states), kind="stable")
        cuts = (by_time[first : first + BATCH_ROWS] for first in range(0, len(by_time), BATCH_ROWS))
        coded = columns.result()
        yield from in_order(
            lambda cut: _finished(contract, states.take(pa.array(cut)), coded, states_by), cuts, threads
        )


def make_plain_examples(
    con: duckdb.DuckDBPyConnection, contract: Contract, files: Sequence[Path], as_of: date
) -> Iterator[pa.Table]:
    """Examples of rows without history: those of a contract without entity or without timestamp."""
    if not files:
        return
    query = select_sorted_examples(contract, select_delivered_once(contract, files), as_of - timedelta(days=1))
    for batch in con.sql(query).to_arrow_reader(BATCH_ROWS):
        table = pa.Table.from_batches([batch])
        finished = finish(contract, table)
        key = {name: table.column(name) for name in (contract.entity, contract.timestamp, contract.target)}
        yield pa.table(key | {name: finished.column(name) for name in finished.column_names})


def _in_one_piece(parts: list[pa.Table]) -> pa.Table:
    """The rows of all tables in one table; the list is emptied, so that no column is in memory twice."""
    table = pa.concat_tables(parts)
    parts.clear()
    columns = {}
    for name in table.column_names:
        columns[name] = table.column(name).combine_chunks()
        table = table.drop_columns([name])
    return pa.table(columns)


def in_order(work: Callable[[Any], Any], items: Iterable[Any], threads: int) -> Iterator[Any]:
    """Work on a few items at once and yield the results in the order of the items. Only a few results wait."""
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[Any]] = deque()
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _settled(contract: Contract, files: Sequence[Path], states: pa.Table, unsettled: pa.Array) -> pa.Table:
    """Give a position to the last rows that differ in their attributes only."""
    if not len(unsettled):
        return states
    rows = CodedColumns(contract, files, contract.named("entity", "attribute")).take(unsettled.to_numpy())
    rows = settle_by_attributes(contract, rows.append_column(POSITION, unsettled))
    index = pc.index_in(states.column(contract.entity), value_set=rows.column(contract.entity))
    positions = pc.coalesce(states.column(POSITION), rows.column(POSITION).take(index))
    return states.set_column(states.schema.get_field_index(POSITION), POSITION, positions)


def _finished(contract: Contract, states: pa.Table, columns: CodedColumns, states_by: Sequence[StatesBy]) -> pa.Table:
    """The key of an example beside its features."""
    positions = states.column(POSITION).to_numpy()
    attributes = columns.take(positions)
    for name in attributes.column_names:
        states = states.append_column(name, attributes.column(name))
    for others in states_by:
        for name, values in others.take(positions).items():
            states = states.append_column(name, values)
    finished = finish(contract, states)
    key = {name: states.column(name) for name in contract.named("entity", "timestamp", "target")}
    key[contract.target] = level_texts(contract.columns[contract.target], key[contract.target])
    return pa.table(key | {name: finished.column(name) for name in finished.column_names})
