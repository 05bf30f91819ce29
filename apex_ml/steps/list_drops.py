"""Step score, first part: list the waiting drops in chunks; nothing is scored."""

from __future__ import annotations

import logging
from dataclasses import replace

from apex_ml.adapters.mlflow.inference_log import send_outbox
from apex_ml.adapters.mlflow.registry import Registry
from apex_ml.adapters.postgres.alerts import BAD_DROP, PostgresAlerts, raise_bad_drop
from apex_ml.adapters.postgres.connection import transaction
from apex_ml.adapters.storage.files import UnreadableError
from apex_ml.adapters.storage.inboxes import DropInbox
from apex_ml.adapters.storage.waiting import Waiting, printable, refuse_unprintable
from apex_ml.errors import DataError
from apex_ml.services import champion_ledger
from apex_ml.services.drop_chunks import MAX_BAD, chunks
from apex_ml.services.inboxes import open_inbox
from apex_ml.services.run_folder import StepContext
from apex_ml.services.scoring_results import BadDrop, ListDropsResult
from apex_ml.services.unreadable_drops import quarantine_unreadable
from apex_ml.text import visible
from apex_ml.wording import counted

logger = logging.getLogger(__name__)


def list_drops(context: StepContext) -> ListDropsResult:
    """Group the waiting drops into chunks for the mapped tasks, oldest first; nothing is scored.

    Without a champion there are no chunks, and `note` gives the reason: the drops wait for one. An incomplete upload is
    left for later and named in `unfinished`. A file whose name cannot be passed to a task is moved to quarantine and
    named in `bad`. When there is nothing else to report, the note is a `skip`.
    """
    inbox = open_inbox(context.settings, context.pipeline)
    inbox.prepare()
    folders, settled = _listed(context, inbox)
    for name, why in folders.items():
        logger.warning("folder_in_inbox name=%s reason=%s", name, why)
    bad: list[BadDrop] = []
    unfinished: list[str] = []
    waiting = []
    for drop in settled:
        if not has_valid_name(context, inbox, drop.name, bad):
            continue
        if reason := inbox.unfinished(drop):
            logger.warning("drop_unfinished name=%s reason=%s", drop.name, reason)
            unfinished.append(reason)
        else:
            waiting.append(drop)
    result = ListDropsResult(
        step="score",
        waiting=len(waiting),
        chunks=(),
        bad=tuple(bad),
        unfinished=tuple(unfinished[:MAX_BAD]),
        folders=tuple(folders)[:MAX_BAD],
    )
    send_outbox(context.settings, context.pipeline.name)  # runs that could not be sent when they were scored
    if not waiting:
        reasons = [*unfinished, *(f"{name} {why}" for name, why in folders.items())]
        return _without_chunks(result, "; ".join(reasons[:3]) or "no drops are waiting")
    registry = Registry(context.settings, context.model_name)
    if champion_ledger.resolve(context.settings, context.schema, registry) is None:
        cause = champion_ledger.why_none(context.settings, context.pipeline) or "no champion yet"
        note = f"{cause}: {counted(len(waiting), 'drop waits', 'drops wait')} for one"
        return _without_chunks(result, note)
    scoring = context.pipeline.options.scoring
    return replace(result, chunks=chunks(waiting, scoring.chunk_drops, scoring.chunk_mb * 2**20))


def _listed(context: StepContext, inbox: DropInbox) -> tuple[dict[str, str], list[Waiting]]:
    """The folders that are no complete drops, with the reasons, and the drops of the inbox.

    While a key prevents it from being listed, an alert says so.
    """
    place = str(inbox.inbox)
    try:
        settled, incomplete = inbox.listed()
        folders = {visible(printable(name)): why for name, why in incomplete.items()}
    except DataError as error:
        raise_bad_drop(context.settings, context.schema, place, str(error), context.run)
        raise
    if not context.pipeline.has_inbox_folder:
        with transaction(context.settings, context.schema) as session:
            PostgresAlerts(session).resolve([BAD_DROP], [place])
    return folders, settled


def _without_chunks(result: ListDropsResult, reason: str) -> ListDropsResult:
    """Add why nothing is scored: as a note beside bad drops, which are still to be reported, else as a skip."""
    return replace(result, note=reason) if result.bad else replace(result, skip=reason)


def has_valid_name(context: StepContext, inbox: DropInbox, name: str, bad: list[BadDrop]) -> bool:
    """Whether a name can be passed to a task; one that cannot is moved to quarantine and added to `bad`."""
    try:
        refuse_unprintable(name)
    except DataError as error:
        try:
            quarantine_unreadable(context, inbox, name, str(error))
        except UnreadableError as stays:  # it cannot be moved either; the alert is raised
            logger.error("drop_not_moved name=%s reason=%s", printable(name), stays)
        bad.append(BadDrop(drop=printable(name), reason=str(error)))
        return False
    return True
