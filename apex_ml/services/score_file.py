"""Check, score and write one drop in one transaction, with the claim first."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from datetime import date, datetime
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from apex_ml.adapters.duckdb import engine
from apex_ml.adapters.duckdb.row_checks import FileReport, check_file, log_report, statistics_are_not_trusted
from apex_ml.adapters.postgres.bulk import bulk_transactions
from apex_ml.adapters.postgres.connection import Connection, connect
from apex_ml.adapters.postgres.drops import DropRow, PostgresDrops
from apex_ml.adapters.postgres.outcomes import PostgresOutcomes
from apex_ml.adapters.postgres.partitions import OWN_ROWS, PostgresPartitions, take_run_id
from apex_ml.adapters.postgres.quarantine import PostgresQuarantine
from apex_ml.adapters.postgres.scored_rows import SCORED_ORDERS, write_scores
from apex_ml.adapters.postgres.scoring_runs import ClassFigures, PostgresScoringRuns, ScoringRun
from apex_ml.adapters.postgres.session import BulkSession, Session
from apex_ml.adapters.storage.atomic_writes import scratch_folder
from apex_ml.adapters.storage.drops import Waiting, seen
from apex_ml.adapters.storage.files import UnreadableError
from apex_ml.contract.model import Contract
from apex_ml.contract.names import ROW_NR
from apex_ml.core.profile import Profile
from apex_ml.errors import DataError, TransientError
from apex_ml.faults import reach
from apex_ml.json_text import json_text
from apex_ml.services.drop_features import features_query
from apex_ml.services.run_folder import StepContext
from apex_ml.services.score_batches import MAX_DAYS_AHEAD, Tally, score_batches, scored_schema
from apex_ml.services.scorer import Scorer
from apex_ml.services.scoring_results import ScoredDrop
from apex_ml.services.unknown_values import alert_unknown_values
from apex_ml.sql.quote import identifier, literals
from apex_ml.wording import counted

logger = logging.getLogger(__name__)


class ChangedError(TransientError):
    """The file changed while it was being scored; the next run sees the new content."""


class RefusedError(DataError):
    """Too many rows of a drop break the contract."""

    def __init__(self, reason: str, rows: int, quarantined: int, bad_rows: pa.Table) -> None:
        super().__init__(reason)
        self.rows, self.quarantined, self.bad_rows = rows, quarantined, bad_rows


@dataclass(frozen=True)
class ScoringTools:
    """Connections and a folder that the drops of one call share: opening them takes longer than a small drop."""

    con: duckdb.DuckDBPyConnection
    ledger: Connection
    begin: Callable[[], AbstractContextManager[BulkSession]]
    """Begins a transaction of its own for each drop."""
    scratch: Path


@contextmanager
def scoring_tools(context: StepContext) -> Iterator[ScoringTools]:
    """Open DuckDB, Postgres and a scratch folder for the drops of one call."""
    settings = context.settings
    with (
        scratch_folder(context.processed, "scoring") as scratch,
        engine.connect(settings, scratch) as con,
        statistics_are_not_trusted(con),
        connect(settings) as ledger,
        bulk_transactions(settings) as begin,
    ):
        yield ScoringTools(con, ledger, begin, scratch)


def score_file(
    scorer: Scorer, tools: ScoringTools, path: Path, drop: Waiting, sha256: str, again: DropRow | None = None
) -> ScoredDrop | None:
    """Check, score and write one file in one transaction; None when another process scored the content meanwhile.

    `again` is a drop that is scored anew on purpose.
    """
    started = _Start(scorer.context.settings.now(), time.monotonic())
    # names of its own: DuckDB may keep what it read of a file by its name
    accepted, quarantined = (tools.scratch / f"{sha256}-{kind}.parquet" for kind in ("accepted", "quarantined"))
    try:
        report = check_file(
            tools.con,
            path,
            scorer.context.contract,
            "score",
            as_of=None,
            accepted=accepted,
            quarantined=quarantined,
            with_row_nr=True,
            copy=False,
        )
        log_report(report, "score")
        _refuse(report, scorer.context.contract, quarantined, scorer.context.settings.quarantine_rows_in_sql)
        checked = time.monotonic()
        query = features_query(tools.con, scorer, report.query, drop.name)
        with tools.begin() as session:
            if (drop_id := _claim(session, drop, sha256, report.rows, again)) is None:
                return None
            reach("score_claimed")
            run_id = take_run_id(tools.ledger, report.rows)
            tally = _write_rows(scorer, tools, session, report, query, run_id, started.at, drop.name)
            if report.quarantined:
                rows = pq.read_table(quarantined).to_batches()
                PostgresQuarantine(session).keep("drop", sha256, drop.name, rows)
            reach("score_written")
            finished = time.monotonic()
            features = tally.profile.features
            alert = alert_unknown_values(scorer, tools.con, session, features, report.query, drop.name)
            if warning := _input_warning(report, tally, scorer.as_of):
                logger.warning("drop_odd name=%s warning=%s", drop.name, warning)
            run = replace(
                _scoring_run(scorer, report, tally, run_id, drop_id, started.at),
                input_alert=alert,
                input_warning=warning,
                ms_total=(finished - started.clock) * 1e3,
                ms_check=(checked - started.clock) * 1e3,
                ms_write=(finished - checked - tally.features_seconds - tally.predict_seconds) * 1e3,
            )
            classes = _classes(scorer.context.contract, tally)
            PostgresScoringRuns(session).write(run, classes, scorer.batch, scorer.context.settings.origin)
            if file_status(path, drop) != "same":
                raise ChangedError(
                    f"{drop.name}: the file changed or went away while it was being scored; nothing was written"
                )
            if report.rows >= OWN_ROWS:
                PostgresPartitions(session).attach_own(run_id)
        return ScoredDrop(
            run_id=run_id,
            rows_in=report.rows,
            rows_scored=tally.rows,
            rows_quarantined=report.quarantined,
            confidence_mean=run.confidence_mean,
            ms_total=run.ms_total,
            reasons=report.reasons,
            warnings=report.warnings,
            alert=alert or None,
            warning=warning or None,
        )
    finally:
        accepted.unlink(missing_ok=True)
        quarantined.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Start:
    """When the work on a file began: the time, and the reading of the monotonic clock in seconds."""

    at: datetime
    clock: float


def _write_rows(
    scorer: Scorer,
    tools: ScoringTools,
    session: BulkSession,
    report: FileReport,
    query: str,
    run_id: int,
    scored_at: datetime,
    name: str,
) -> Tally:
    """Stream the rows through the model into Postgres, with the outcomes that the drop itself brings."""
    con, contract = tools.con, scorer.context.contract
    tally = Tally(report.accepted, Profile(scorer.bins, len(contract.classes)))
    partitions = PostgresPartitions(session)
    own = report.rows >= OWN_ROWS
    table = partitions.create_own(run_id) if own else SCORED_ORDERS
    batches = score_batches(con, query, scorer, run_id, scored_at, tally, name)
    written = write_scores(session, scored_schema(contract), batches, table=table)
    if written != report.accepted or tally.rows != report.accepted:
        raise TransientError(f"{name}: {report.accepted} rows accepted but {tally.rows} scored and {written} written")
    if own:
        partitions.index_own(contract, run_id)
    if contract.target not in report.filled:
        PostgresOutcomes(session).add(_observed(con, contract, report.query, run_id).to_batches())
    return tally


def _claim(session: Session, drop: Waiting, sha256: str, rows: int, again: DropRow | None) -> int | None:
    """Claim the content, or lock a drop that is scored again; the id of its ledger row, None when it is scored."""
    drops = PostgresDrops(session)
    if again is None:
        return drops.claim(sha256, drop.name, drop.size, rows)
    drops.lock_for_rescoring(again)
    return again.drop_id


def _refuse(report: FileReport, contract: Contract, quarantined: Path, max_kept: int) -> None:
    """Refuse a drop with too many bad rows; the first `max_kept` of them travel with the error."""
    limit = contract.quarantine.limit.score
    if report.rows and report.quarantined > limit * report.rows:
        most = sorted(report.reasons.items(), key=lambda i: -i[1])[:3]
        top = "; ".join(f"{counted(n, 'row')}: {report.with_examples(reason)}" for reason, n in most)
        bad_rows = pq.read_table(quarantined).slice(0, max_kept)
        raise RefusedError(
            f"{report.quarantined} of {report.rows} rows break the contract, more than the limit of {limit:.0%}: {top}",
            report.rows,
            report.quarantined,
            bad_rows,
        )


def _observed(con: duckdb.DuckDBPyConnection, contract: Contract, accepted: str, run_id: int) -> pa.Table:
    target = identifier(contract.target)
    levels = literals(contract.classes)
    query = (
        f"SELECT {run_id:d}::BIGINT AS run_id, {ROW_NR}::BIGINT AS {ROW_NR}, {target} AS observed, 'drop' AS source"
        f" FROM ({accepted}) WHERE {target} IN ({levels})"
    )
    with statistics_are_not_trusted(con):
        return con.sql(query).to_arrow_table()


def _scoring_run(
    scorer: Scorer, report: FileReport, tally: Tally, run_id: int, drop_id: int, started_at: datetime
) -> ScoringRun:
    """The statistics of a run, without the phases that only the caller measures."""
    row_us = np.array([us for us, _ in tally.row_us])
    weights = np.array([n for _, n in tally.row_us], dtype=float)
    known, mean, median = tally.confidence()
    quantiles = np.quantile(row_us, [0.5, 0.95, 0.99]) if known else [float("nan")] * 3
    return ScoringRun(
        run_id=run_id,
        drop_id=drop_id,
        step_run=scorer.context.run,
        model_name=scorer.version.name,
        model_version=scorer.version.version,
        mlflow_run_id=scorer.version.run_id,
        feature_snapshot=scorer.snapshot_sha256,
        snapshot_as_of=scorer.as_of,
        rows_in=report.rows,
        rows_scored=tally.rows,
        rows_quarantined=report.quarantined,
        success_rate=tally.rows / report.rows if report.rows else 1.0,
        row_us_mean=float(np.average(row_us, weights=weights)) if known else float("nan"),
        row_us_p50=float(quantiles[0]),
        row_us_p95=float(quantiles[1]),
        row_us_p99=float(quantiles[2]),
        confidence_mean=mean,
        confidence_median=median,
        profile=json_text(tally.profile.counts() | {"lag_days": _lag_days(scorer, tally)}),
        started_at=started_at,
        finished_at=scorer.context.settings.now(),
        ms_total=0.0,
        ms_check=0.0,
        ms_features=tally.features_seconds * 1e3,
        ms_predict=tally.predict_seconds * 1e3,
        ms_write=0.0,
    )


def _input_warning(report: FileReport, tally: Tally, as_of: date) -> str | None:
    """What is odd about a drop that is scored all the same; None when nothing is."""
    if not report.rows:
        return "the file has no rows: nothing was scored. If it should have some, deliver it again under the same name"
    if not tally.far_ahead:
        return None
    return (
        f"{tally.far_ahead:,} of {counted(tally.rows, 'row')} are dated more than {MAX_DAYS_AHEAD} days after the"
        f" history that they were scored with, which ends before {as_of} (newest date: {tally.newest})."
        " If the dates are wrong, deliver a corrected file under the same name;"
        " if they are right, retrain with newer data: apex retrain"
    )


def _lag_days(scorer: Scorer, tally: Tally) -> float | None:
    """Days from the snapshot to the orders, on average."""
    if not tally.rows:
        return None
    return round(tally.days / tally.rows - (scorer.as_of - date(1970, 1, 1)).days, 3)


def _classes(contract: Contract, tally: Tally) -> dict[str, ClassFigures]:
    return {level: ClassFigures(*tally.confidence(index)) for index, level in enumerate(contract.classes)}


def file_status(path: Path, drop: Waiting) -> str:
    """Whether the file of a drop is still the `same`, or has `changed`, or is `gone`."""
    try:
        return "same" if seen(path, drop.name) == drop else "changed"
    except FileNotFoundError:
        return "gone"
    except UnreadableError:
        return "same"
    except DataError:
        return "changed"
