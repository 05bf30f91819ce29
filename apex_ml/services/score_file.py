"""Check, score and write one drop in one transaction, with the claim first."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from apex_ml.adapters.duckdb import engine
from apex_ml.adapters.duckdb.file_report import FileReport, log_report
from apex_ml.adapters.duckdb.joined_parts import JoinedParts, join_parts
from apex_ml.adapters.duckdb.row_checks import check_file
from apex_ml.adapters.postgres.bulk import bulk_transactions
from apex_ml.adapters.postgres.connection import Connection, connect
from apex_ml.adapters.postgres.contracts import refuse_missing_columns
from apex_ml.adapters.postgres.drops import DropRow, PostgresDrops
from apex_ml.adapters.postgres.outcomes import PostgresOutcomes
from apex_ml.adapters.postgres.partitions import OWN_ROWS, PostgresPartitions, take_run_id
from apex_ml.adapters.postgres.quarantine import PostgresQuarantine
from apex_ml.adapters.postgres.scored_rows import write_scores
from apex_ml.adapters.postgres.scoring_runs import PostgresScoringRuns, ScoringRun
from apex_ml.adapters.postgres.session import BulkSession, Session
from apex_ml.adapters.storage.atomic_writes import scratch_folder
from apex_ml.adapters.storage.inboxes import FetchedDrop
from apex_ml.adapters.storage.waiting import Waiting
from apex_ml.contract.model import Contract
from apex_ml.core.profile import Profile
from apex_ml.errors import DataError, TransientError
from apex_ml.faults import reach
from apex_ml.services.drop_features import features_query
from apex_ml.services.run_folder import StepContext
from apex_ml.services.score_batches import Tally, score_batches, scored_schema
from apex_ml.services.scorer import Scorer
from apex_ml.services.scoring_results import ScoredDrop
from apex_ml.services.scoring_statistics import ScoringTimes, class_statistics, input_warning, run_statistics
from apex_ml.services.unknown_values import alert_unknown_values
from apex_ml.sql.outcomes import select_observed
from apex_ml.sql.quarantine import select_drop_quarantine
from apex_ml.sql.tables import SCORED
from apex_ml.text import visible
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

    con: engine.StrictConnection
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
        engine.connect_strict(settings, scratch) as con,
        connect(settings, context.schema) as ledger,
        bulk_transactions(settings, context.schema) as begin,
    ):
        yield ScoringTools(con, ledger, begin, scratch)


def score_file(
    scorer: Scorer, tools: ScoringTools, file: FetchedDrop, again: DropRow | None = None
) -> ScoredDrop | None:
    """Check, score and write one file in one transaction; None when another process scored the content meanwhile.

    `again` is a drop that is scored again on purpose.
    """
    started_at, start = scorer.context.settings.now(), time.monotonic()
    drop, sha256 = file.drop, file.sha256
    with _checked(scorer, tools, file) as (report, quarantined):
        checked = time.monotonic()
        query = features_query(tools.con, scorer, report.query, drop.name)
        with tools.begin() as session:
            refuse_missing_columns(session, SCORED, scored_schema(scorer.context.contract, scorer.model.classes).names)
            if (drop_id := _claim(session, drop, sha256, report.rows, again)) is None:
                return None
            reach("score_claimed")
            run_id = take_run_id(tools.ledger, report.rows)
            tally = _write_rows(scorer, tools, session, report, query, run_id, started_at, drop.name)
            if report.quarantined:
                rows = _quarantined_rows(report, quarantined).to_batches()
                PostgresQuarantine(session).keep("drop", sha256, drop.name, rows)
            reach("score_written")
            times = ScoringTimes(started_at, start, checked, time.monotonic())
            run = _describe(scorer, tools, session, report, tally, times, run_id, drop_id, drop.name)
            classes = class_statistics(scorer.model.classes, tally)
            PostgresScoringRuns(session).write(run, classes, scorer.batch, scorer.context.settings.origin)
            if file.status() != "same":
                raise ChangedError(
                    f"{drop.name}: the file changed or went away while it was being scored; nothing was written"
                )
            if report.rows >= OWN_ROWS:
                PostgresPartitions(session).attach_own(run_id)
        return _scored_drop(report, run)


@contextmanager
def _checked(scorer: Scorer, tools: ScoringTools, file: FetchedDrop) -> Iterator[tuple[FileReport, Path]]:
    """The report of the row checks, whose rows can be read while the block runs, and the file of the bad rows."""
    # names of the content: DuckDB may cache what it read of a file by its name
    accepted, quarantined = (tools.scratch / f"{file.sha256}-{kind}.parquet" for kind in ("accepted", "quarantined"))
    try:
        with ExitStack() as stack:
            joined = None
            if file.parts:
                contract = scorer.context.contract
                parts = join_parts(tools.con, file.path, file.parts, contract, "score", tools.scratch)
                joined = stack.enter_context(parts)
            yield _check(scorer, tools, file, joined, accepted, quarantined), quarantined
    finally:
        accepted.unlink(missing_ok=True)
        quarantined.unlink(missing_ok=True)


def _check(
    scorer: Scorer,
    tools: ScoringTools,
    file: FetchedDrop,
    joined: JoinedParts | None,
    accepted: Path,
    quarantined: Path,
) -> FileReport:
    """Run the row checks; refuse a drop with too many bad rows."""
    contract = scorer.context.contract
    report = check_file(
        tools.con,
        file.path,
        contract,
        "score",
        as_of=None,
        accepted=accepted,
        quarantined=quarantined,
        with_row_nr=True,
        copy=False,
        joined=joined,
    )
    log_report(report, "score")
    lists_them = select_drop_quarantine(scorer.context.schema, file.sha256)
    _refuse(
        report, contract, quarantined, scorer.context.pipeline.options.validation.quarantine_rows_in_sql, lists_them
    )
    return report


def _describe(
    scorer: Scorer,
    tools: ScoringTools,
    session: BulkSession,
    report: FileReport,
    tally: Tally,
    times: ScoringTimes,
    run_id: int,
    drop_id: int,
    name: str,
) -> ScoringRun:
    """The statistics of a run, with an alert about unknown values and a warning about odd input."""
    alert = alert_unknown_values(scorer, tools.con, session, tally.profile.features, report.query, name)
    if warning := input_warning(report, tally, scorer):
        logger.warning("drop_odd name=%s warning=%s", name, warning)
    run = run_statistics(scorer, report, tally, times, run_id, drop_id)
    return replace(run, input_alert=alert, input_warning=warning)


def _scored_drop(report: FileReport, run: ScoringRun) -> ScoredDrop:
    return ScoredDrop(
        run_id=run.run_id,
        rows_in=run.rows_in,
        rows_scored=run.rows_scored,
        rows_quarantined=run.rows_quarantined,
        confidence_mean=run.confidence_mean,
        ms_total=run.ms_total,
        reasons=report.reasons,
        warnings=report.warnings,
        alert=run.input_alert or None,
        warning=run.input_warning or None,
    )


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
    """Stream the rows through the model into Postgres, with the outcomes that the drop itself holds."""
    con, contract = tools.con, scorer.context.contract
    tally = Tally(report.accepted, Profile(scorer.bins, len(scorer.model.classes)))
    partitions = PostgresPartitions(session)
    own = report.rows >= OWN_ROWS
    table = partitions.create_own(run_id) if own else SCORED
    batches = score_batches(con, query, scorer, run_id, scored_at, tally, name)
    written = write_scores(session, scored_schema(contract, scorer.model.classes), batches, table=table)
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
        return drops.claim(sha256, drop.name, drop.size, rows, corrects=drop.corrects)
    drops.lock_for_rescoring(again)
    return again.drop_id


def _refuse(report: FileReport, contract: Contract, quarantined: Path, max_kept: int, lists_them: str) -> None:
    """Refuse a drop with too many bad rows; the error carries the first `max_kept`, and a query that lists them."""
    limit = contract.quarantine.limit.score
    if report.rows and report.quarantined > limit * report.rows:
        most = sorted(report.reasons.items(), key=lambda i: -i[1])[:3]
        top = "; ".join(f"{counted(n, 'row')}: {report.with_examples(reason)}" for reason, n in most)
        bad_rows = _quarantined_rows(report, quarantined).slice(0, max_kept)
        raise RefusedError(
            f"{visible(report.name)}: {report.quarantined} of {report.rows} rows break the contract, more than the"
            f" limit of {limit:.0%}: {top}; correct them where the file is written and deliver it again;"
            f' `apex sql -c "{lists_them}"` lists them',
            report.rows,
            report.quarantined,
            bad_rows,
        )


def _quarantined_rows(report: FileReport, quarantined: Path) -> pa.Table:
    rows = pq.read_table(quarantined)
    return rows if report.places is None else report.places.add_to(rows)


def _observed(con: engine.StrictConnection, contract: Contract, accepted: str, run_id: int) -> pa.Table:
    return con.sql(select_observed(contract, accepted, run_id)).to_arrow_table()
