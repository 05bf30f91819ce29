"""Step score: every drop exactly once, by one champion, into Postgres in one transaction a drop."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

from apex_ml.adapters.duckdb import engine
from apex_ml.adapters.mlflow.inference_log import send_outbox
from apex_ml.adapters.postgres import bulk, connection
from apex_ml.adapters.postgres.alerts import CANNOT_SCORE, CHAMPION, PostgresAlerts, raise_alert, raise_bad_drop
from apex_ml.adapters.postgres.drops import FailedDrop, KnownDrop, PostgresDrops
from apex_ml.adapters.postgres.failed_drops import fail_drop
from apex_ml.adapters.postgres.partitions import analyse_new, merge_closed
from apex_ml.adapters.postgres.scoring_runs import PostgresScoringRuns
from apex_ml.adapters.storage.files import UnreadableError
from apex_ml.adapters.storage.inboxes import DropInbox, FetchedDrop
from apex_ml.adapters.storage.waiting import Waiting, printable, refuse_unprintable
from apex_ml.errors import ApexError, DataError
from apex_ml.faults import reach
from apex_ml.services.alert_delivery import send_alerts
from apex_ml.services.drop_chunks import MAX_BAD, short_label
from apex_ml.services.inboxes import open_inbox
from apex_ml.services.run_folder import StepContext
from apex_ml.services.score_file import ChangedError, RefusedError, ScoringTools, score_file, scoring_tools
from apex_ml.services.scorer import Scorer, UnusableModelError, load_scorer
from apex_ml.services.scoring_results import BadDrop, DropOutcome, MoreDrops, ScoreReport, ScoreResult
from apex_ml.services.unreadable_drops import quarantine_unreadable
from apex_ml.text import visible
from apex_ml.wording import counted

logger = logging.getLogger(__name__)
MAX_SHOWN = 20
"""Drops that the result, and the error about bad drops, name."""
SHARED_FAULTS = (ApexError, connection.DriverError, bulk.DriverError, OSError)
"""Errors that are not about one drop: without a service or a disk no drop can be scored."""


def report(context: StepContext) -> ScoreReport:
    """Report what a run scored and its bad drops, as the ledger has them; send new alerts about those.

    `scored` is the number of drops; `bad` names each drop that the run could not score, with the reason and a label
    for its mapped task. Every attempt of every task counts, also one that was killed. Without either there is a
    `skip`.
    """
    with connection.transaction(context.settings, context.schema) as session:
        bad_drops = PostgresAlerts(session).bad_drops(context.run)
        scored_now = PostgresScoringRuns(session).drops_scored(context.run)
    bad = [BadDrop(label=short_label(row.drop), drop=row.drop, reason=row.reason) for row in bad_drops[:MAX_BAD]]
    if more := len(bad_drops) - len(bad):
        text = (
            f"{counted(more, 'more drop is', 'more drops are')} bad; all of them: {context.pipeline.command('alerts')}"
        )
        bad.append(BadDrop(label=f"{more} more", drop=f"{more} more", reason=text))
    result = ScoreReport(run=context.run, step="score", scored=scored_now, bad=tuple(bad))
    if bad:
        return replace(result, sent=tuple(send_alerts(context.settings, context.pipeline)))
    return result if scored_now else replace(result, skip="nothing was scored, and no drop is bad")


def score(
    context: StepContext,
    names: list[str],
    *,
    before: Sequence[BadDrop] = (),
    bad_is_error: bool = True,
) -> ScoreResult:
    """Score the named drops of the inbox.

    A drop whose content is in the ledger is not scored again, only moved. One drop never stops the others:

    - A bad drop, and a drop that is not a file or may not be read, is moved to quarantine with the reason.
    - A file whose disk fails, that needs too much memory, or at which Apex itself fails, stays in the inbox.

    Each raises an alert. In the end :class:`~apex_ml.errors.DataError` names the bad ones and those of `before`, which
    were moved to quarantine earlier; :class:`~apex_ml.adapters.storage.files.UnreadableError` names what a failing
    disk left, and a fault of Apex itself is raised as it is. Without `bad_is_error` they are only in the result:
    :func:`report` names them.

    A lost service raises :class:`~apex_ml.errors.TransientError`: what is committed stays, the rest is found by the
    next call.
    """
    started = time.monotonic()
    inbox = open_inbox(context.settings, context.pipeline)
    inbox.prepare()
    outcomes: list[DropOutcome] = []
    problems = _Problems(bad=[_with_name(drop.drop, drop.reason) for drop in before])
    version = None
    if names or not before:  # a call without drops still finishes what a killed one left
        scorer = _load_scorer(context)
        version = scorer.version.version
        with scoring_tools(context) as tools:
            outcomes = [_try_drop(scorer, tools, inbox, name, problems) for name in names]
        after_commit(context)
    more = [MoreDrops(more=len(outcomes) - MAX_SHOWN)] if len(outcomes) > MAX_SHOWN else []
    committed = [outcome.scored for outcome in outcomes if outcome.scored is not None]
    result = ScoreResult(
        run=context.run,
        step="score",
        model_version=version,
        drops=(*outcomes[:MAX_SHOWN], *more),
        scored=sum(outcome.state == "scored" for outcome in outcomes),
        already=sum(outcome.state == "already" for outcome in outcomes),
        failed=len(problems.bad) + len(problems.left) + len(problems.faults),
        with_alert=sum(drop.alert is not None for drop in committed),
        rows_scored=sum(drop.rows_scored for drop in committed),
        seconds=round(time.monotonic() - started, 3),
    )
    if bad_is_error:
        _raise_problems(problems, inbox, len(names) + len(before))
    return result


def _load_scorer(context: StepContext) -> Scorer:
    """The scorer; a champion that cannot score raises an alert, which ends with the next scored drop."""
    try:
        return load_scorer(context)
    except UnusableModelError as error:
        raise_alert(context.settings, context.schema, CANNOT_SCORE, CHAMPION, str(error))
        raise


@dataclass
class _Problems:
    """The problems with single drops of a call: bad ones, those left in the inbox, and faults of Apex itself."""

    bad: list[str]
    left: list[str] = field(default_factory=list)
    faults: list[Exception] = field(default_factory=list)


def _try_drop(scorer: Scorer, tools: ScoringTools, inbox: DropInbox, name: str, problems: _Problems) -> DropOutcome:
    """Score one drop; a problem of this drop alone is noted, so that the others are still scored."""
    context = scorer.context
    try:
        return score_drop(scorer, tools, inbox, name)
    except DataError as error:
        problems.bad.append(_with_name(name, str(error)))
        return DropOutcome(drop=name, state="failed", reason=str(error))
    except (UnreadableError, engine.OutOfMemoryError) as error:
        raise_bad_drop(context.settings, context.schema, name, str(error), context.run)
        problems.left.append(_with_name(name, str(error)))
        return DropOutcome(drop=name, state="unreadable", reason=str(error))
    except SHARED_FAULTS:
        raise
    except Exception as error:  # raised after all other drops
        reason = f"Apex itself fails at this drop, {type(error).__name__}: {error}"
        logger.exception("drop_fault name=%s", name)
        raise_bad_drop(context.settings, context.schema, name, reason, context.run)
        problems.faults.append(error)
        return DropOutcome(drop=name, state="fault", reason=reason)


def _with_name(name: str, reason: str) -> str:
    """A reason that begins with the name of its drop, once."""
    shown = visible(printable(name))
    last = shown.rpartition("/")[2]  # messages about a file begin with its last part
    if last != shown and reason.startswith(f"{last}: "):
        return f"{shown}{reason.removeprefix(last)}"
    return reason if reason.startswith(f"{shown}: ") else f"{shown}: {reason}"


def _raise_problems(problems: _Problems, inbox: DropInbox, total: int) -> None:
    """Raise one error that names the drops with problems; without any nothing happens."""
    bad, left = problems.bad, problems.left
    lines = "the others are scored:\n" + "\n".join((bad + left)[:MAX_SHOWN])
    stay = f"{len(left)} of {total} drops cannot be read for now and stay in {inbox.inbox}, "
    if problems.faults:
        for line in bad + left:  # the fault is raised instead of them
            logger.error("drop_not_scored %s", line)
        raise problems.faults[0]
    if bad:
        moved = f"{len(bad)} of {total} drops are bad and {inbox.fate_of_bad_drops}, "
        raise DataError(moved + (stay if left else "") + lines)
    if left:
        raise UnreadableError(stay + lines)


def after_commit(context: StepContext) -> None:
    """Work after the commit: send to MLflow, merge and analyse partitions. A failure here does not undo the scores."""
    try:
        send_outbox(context.settings, context.pipeline.name)
        merge_closed(context.settings, context.schema, context.contract)
        analyse_new(context.settings, context.schema)
    except ApexError as error:
        logger.warning("left_for_later reason=%s", error)


def score_drop(scorer: Scorer, tools: ScoringTools, inbox: DropInbox, name: str) -> DropOutcome:
    """Score one drop of the inbox and move its file; returns its name, its state and what was scored."""
    with ExitStack() as opened:
        try:
            refuse_unprintable(name)
            known = inbox.known_content(name)
            if known is not None and (outcome := _already(scorer, tools, inbox, *known)) is not None:
                return outcome
            file = opened.enter_context(inbox.fetch(name, tools.scratch))
        except FileNotFoundError:
            logger.info("drop_gone name=%s", name)
            return DropOutcome(drop=name, state="gone")
        except DataError as error:
            quarantine_unreadable(scorer.context, inbox, name, str(error))
            raise
        return _score_fetched(scorer, tools, inbox, file)


def _score_fetched(scorer: Scorer, tools: ScoringTools, inbox: DropInbox, file: FetchedDrop) -> DropOutcome:
    name, drop, sha256 = file.drop.name, file.drop, file.sha256
    if reason := inbox.unfinished(drop):
        logger.warning("drop_unfinished name=%s reason=%s", name, reason)
        return DropOutcome(drop=name, state="unfinished", reason=reason)
    if (outcome := _already(scorer, tools, inbox, drop, sha256)) is not None:
        return outcome
    reach("score_begun")
    try:
        run = score_file(scorer, tools, file)
    except (DataError, ChangedError, UnreadableError, FileNotFoundError) as error:
        now = file.status()
        if now == "gone":
            logger.info("drop_gone name=%s", name)
            return DropOutcome(drop=name, state="gone")
        if isinstance(error, ChangedError) or now == "changed":
            logger.warning("drop_changed name=%s", name)
            return DropOutcome(drop=name, state="changed")
        if isinstance(error, DataError):
            failed, bad_rows = FailedDrop(sha256, name, drop.size, str(error)), None
            if isinstance(error, RefusedError):
                failed, bad_rows = replace(failed, rows=error.rows, quarantined=error.quarantined), error.bad_rows
            fail_drop(scorer.context.settings, scorer.context.schema, failed, scorer.context.run, bad_rows)
            inbox.reject(drop, sha256, {"reason": str(error)})
        raise
    reach("score_committed")
    if run is None:
        _count_delivery(tools, sha256)
        inbox.finish(drop, sha256)
        return DropOutcome(drop=name, state="already", sha256=sha256)
    inbox.finish(drop, sha256)
    logger.info("drop_scored name=%s rows=%s version=%s", name, run.rows_scored, scorer.version.version)
    return DropOutcome(drop=name, state="scored", sha256=sha256, scored=run)


def _already(scorer: Scorer, tools: ScoringTools, inbox: DropInbox, drop: Waiting, sha256: str) -> DropOutcome | None:
    """Finish a drop whose content is scored; None when it is not."""
    with connection.begin(tools.ledger) as session:
        known = PostgresDrops(session).by_content(sha256)
    if known is None or known.state != "done":
        return None
    _count_delivery(tools, sha256)
    inbox.finish(drop, sha256)
    logger.info("drop_already_scored name=%s as=%s", drop.name, known.name)
    reason = _other_contract(scorer, known)
    return DropOutcome(drop=drop.name, state="already", sha256=sha256, scored_as=known.name, reason=reason)


def _other_contract(scorer: Scorer, known: KnownDrop) -> str | None:
    """A warning about a content that was scored by another contract than today's; None when it was by this one.

    A content is scored exactly once, whatever the contract: only a person has it scored again.
    """
    before, today = known.contract_identity, scorer.context.contract.identity().digest()
    if before is None or before == today:
        return None
    reason = (
        f"the content was scored by another contract ({before[:12]}, today's is {today[:12]}) and is not scored again"
        f" by itself; to do it: apex -p {scorer.context.pipeline.name} score --rescore {known.name}"
    )
    logger.warning("drop_of_another_contract name=%s %s", known.name, reason)
    return reason


def _count_delivery(tools: ScoringTools, sha256: str) -> None:
    with connection.begin(tools.ledger) as session:
        PostgresDrops(session).count_delivery(sha256)


def rescore(context: StepContext, given: str) -> ScoreResult:
    """Score a finished drop once more with today's champion, as a new run; the older runs stay.

    `given` is its name, id or the beginning of its sha256. Raises :class:`~apex_ml.errors.DataError` when there is no
    such drop or its file is not in done/.
    """
    inbox = open_inbox(context.settings, context.pipeline)
    with connection.transaction(context.settings, context.schema) as session:
        known = PostgresDrops(session).find_scored(given)
    with scoring_tools(context) as tools, inbox.scored(known.name, known.sha256, tools.scratch) as file:
        if file is None:
            raise DataError(
                f"{known.name}: is still in {inbox.inbox}; finish it first: {context.pipeline.command('score')}"
            )
        scorer = load_scorer(context)
        run = score_file(scorer, tools, file, again=known)
    assert run is not None  # only with a claim can another process be faster
    logger.info("drop_rescored name=%s rows=%s version=%s", known.name, run.rows_scored, scorer.version.version)
    after_commit(context)
    outcome = DropOutcome(drop=known.name, state="scored", sha256=known.sha256, scored=run)
    version = scorer.version.version
    return ScoreResult(run=context.run, step="score", model_version=version, drops=(outcome,), scored=1)
