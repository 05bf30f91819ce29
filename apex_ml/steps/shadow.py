"""Step shadow: challengers score the drops that the champion has scored, after it.

A version that the gate did not promote scores every drop that is scored within a number of days after it was
registered. Nothing waits for it: the drop is committed and its file moved before. A failure is recorded in shadow_runs
and reported, and changes no row of the drop.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from apex_ml.adapters.duckdb import engine
from apex_ml.adapters.duckdb.row_checks import check_file
from apex_ml.adapters.mlflow.registry import Registry
from apex_ml.adapters.postgres.bulk import bulk_transaction
from apex_ml.adapters.postgres.connection import transaction
from apex_ml.adapters.postgres.contracts import refuse_missing_columns
from apex_ml.adapters.postgres.scored_rows import write_scores
from apex_ml.adapters.postgres.shadow import PostgresShadow
from apex_ml.adapters.storage.atomic_writes import scratch_folder
from apex_ml.adapters.storage.files import UnreadableError
from apex_ml.contract.encoded_names import probability_columns
from apex_ml.contract.names import ROW_NR
from apex_ml.core.features import finish
from apex_ml.errors import DataError, TransientError
from apex_ml.faults import reach
from apex_ml.services import champion_ledger
from apex_ml.services.drop_features import features_query
from apex_ml.services.inboxes import open_inbox
from apex_ml.services.run_folder import StepContext
from apex_ml.services.score_batches import BATCH_ROWS
from apex_ml.services.scorer import Scorer, UnusableModelError, build_scorer
from apex_ml.services.scoring_results import ShadowResult
from apex_ml.sql.tables import SHADOW

logger = logging.getLogger(__name__)
MAX_SHOWN = 20


def shadow(context: StepContext) -> ShadowResult:
    """Let every challenger score the drops that it has not scored, each in one transaction. A second call does nothing.

    Raises :class:`~apex_ml.errors.DataError` naming the drops that could not be scored, after all others; they are not
    tried again. :class:`~apex_ml.adapters.storage.files.UnreadableError` then names the files whose disk fails. A lost
    service raises :class:`~apex_ml.errors.TransientError`.
    """
    days = context.pipeline.options.shadow.days
    result = ShadowResult(run=context.run, step="shadow")
    if not days:
        return replace(result, skip="challengers do not score drops: shadow.days of the pipeline is 0")
    with transaction(context.settings, context.schema) as session:
        due = PostgresShadow(session, context.model_name).due(days)
    if not due:
        return replace(result, skip="no challenger has a drop to score")
    registry, inbox = Registry(context.settings, context.model_name), open_inbox(context.settings, context.pipeline)
    scorers: dict[int, Scorer] = {}
    bad: list[str] = []
    unreadable: list[str] = []
    for pair in due:
        version, name = pair.challenger_version, pair.name
        try:
            with (
                scratch_folder(context.processed, "shadow") as scratch,
                inbox.scored(name, pair.sha256, scratch) as file,
            ):
                if file is None:  # its scorer is about to move it
                    result = replace(result, later=result.later + 1)
                    continue
                if version not in scorers:
                    challenger = champion_ledger.require(registry.by_version(version), f"challenger version {version}")
                    scorers[version] = build_scorer(context, registry, challenger)
                rows = _one_drop(scorers[version], file.path, name, pair.run_id, scratch)
        except (DataError, UnusableModelError) as error:
            with transaction(context.settings, context.schema) as session:
                PostgresShadow(session, context.model_name).fail(pair.run_id, version, context.run, str(error))
            logger.warning("shadow_failed name=%s version=%s reason=%s", name, version, error)
            bad.append(f"{name} by version {version}: {error}")
            continue
        except UnreadableError as error:
            logger.warning("shadow_unreadable name=%s reason=%s", name, error)
            unreadable.append(str(error))
            continue
        if rows is not None:
            result = replace(result, shadowed=result.shadowed + 1, rows_scored=result.rows_scored + rows)
            logger.info("drop_shadowed name=%s rows=%s version=%s", name, rows, version)
    if bad:
        raise DataError(
            f"{len(bad)} of {len(due)} could not be scored in the shadow; the drops themselves are scored:\n"
            + "\n".join((bad + unreadable)[:MAX_SHOWN])
        )
    if unreadable:
        raise UnreadableError("\n".join(unreadable[:MAX_SHOWN]))
    return result


def _one_drop(scorer: Scorer, path: Path, name: str, run_id: int, scratch: Path) -> int | None:
    """Score one file with one challenger; None when another process has already done so."""
    context, contract = scorer.context, scorer.context.contract
    settings = context.settings
    with engine.connect_strict(settings, scratch) as con:
        accepted = scratch / "accepted.parquet"
        report = check_file(
            con,
            path,
            contract,
            "score",
            as_of=None,
            accepted=accepted,
            quarantined=scratch / "quarantined.parquet",
            with_row_nr=True,
            copy=False,
        )
        query = features_query(con, scorer, report.query, name)
        with bulk_transaction(settings, context.schema) as session:
            refuse_missing_columns(session, SHADOW, _schema(scorer.model.classes).names)
            claimed = PostgresShadow(session, context.model_name).claim(
                run_id,
                scorer.version.version,
                scorer.version.run_id,
                scorer.snapshot_sha256,
                report.accepted,
                context.run,
            )
            if not claimed:
                return None
            batches = _batches(con, query, scorer, run_id, name)
            written = write_scores(session, _schema(scorer.model.classes), batches, table=SHADOW)
            if written != report.accepted:
                raise TransientError(f"{name}: {report.accepted} rows accepted but {written} written in the shadow")
            reach("shadow_written")
    return written


def _schema(classes: Sequence[str]) -> pa.Schema:
    fields = [pa.field("run_id", pa.int64()), pa.field("model_version", pa.int32()), pa.field(ROW_NR, pa.int64())]
    fields.append(pa.field("predicted", pa.string()))
    return pa.schema([*fields, *(pa.field(name, pa.float32()) for name in probability_columns(classes).values())])


def _batches(
    con: engine.StrictConnection, query: str, scorer: Scorer, run_id: int, name: str
) -> Iterator[pa.RecordBatch]:
    contract = scorer.contract
    classes, schema = pa.array(scorer.model.classes), _schema(scorer.model.classes)
    with engine.errors_name(name):
        for batch in con.sql(query).to_arrow_reader(BATCH_ROWS):
            table = pa.Table.from_batches([batch])
            prediction = scorer.model.predict(finish(contract, table, scorer.model.encoder.names))
            p, n = prediction.probabilities, table.num_rows
            columns = [
                pa.array(np.full(n, run_id)),
                pa.array(np.full(n, scorer.version.version, np.int32)),
                table.column(ROW_NR).cast(pa.int64()).combine_chunks(),
                classes.take(pa.array(prediction.predicted)),
                *(pa.array(np.ascontiguousarray(p[:, k])) for k in range(p.shape[1])),
            ]
            yield pa.RecordBatch.from_arrays(columns, schema=schema)
