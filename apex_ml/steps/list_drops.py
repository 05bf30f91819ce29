"""Step score, first part: list the waiting drops in chunks; nothing is scored."""

from __future__ import annotations

import logging
from typing import Any

from apex_ml.adapters.mlflow.inference_log import send_outbox
from apex_ml.adapters.mlflow.registry import Registry
from apex_ml.adapters.storage.drops import Inbox, printable, refuse_unprintable
from apex_ml.adapters.storage.files import UnreadableError
from apex_ml.errors import DataError
from apex_ml.services import champion_ledger as protocol
from apex_ml.services.drop_chunks import MAX_BAD, chunks
from apex_ml.services.run_folder import StepContext
from apex_ml.services.unreadable_drops import quarantine_unreadable
from apex_ml.wording import counted

logger = logging.getLogger(__name__)


def list_drops(context: StepContext) -> dict[str, Any]:
    """Group the waiting drops into chunks for the mapped tasks, oldest first; nothing is scored.

    With no champion there are no chunks and the reason stands in `note`: the drops wait for one. An upload that has
    stopped half way is left alone for a while and named in `unfinished`. A file whose name cannot be passed to a task
    is moved to quarantine and named in `bad`. With nothing left to report, the note is a `skip`.
    """
    inbox = Inbox(context.settings)
    inbox.prepare()
    bad: list[dict[str, str]] = []
    unfinished: list[str] = []
    waiting = []
    for drop in inbox.settled():
        if not has_valid_name(context, inbox, drop.name, bad):
            continue
        if reason := inbox.unfinished(drop):
            logger.warning("drop_unfinished name=%s reason=%s", drop.name, reason)
            unfinished.append(reason)
        else:
            waiting.append(drop)
    result: dict[str, Any] = {
        "step": "score",
        "waiting": len(waiting),
        "chunks": [],
        "bad": bad,
        "unfinished": unfinished[:MAX_BAD],
    }
    send_outbox(context.settings)  # what could not be sent when it was scored
    if not waiting:
        return result | {"note" if bad else "skip": "; ".join(unfinished[:3]) or "no drops are waiting"}
    if protocol.resolve(context.settings, Registry(context.settings, context.model_name)) is None:
        gone = protocol.why_none(context.settings)
        note = f"{gone or 'no champion yet'}: {counted(len(waiting), 'drop waits', 'drops wait')} for one"
        return result | {"note" if bad else "skip": note}
    result["chunks"] = chunks(waiting, context.settings.score_chunk_drops, context.settings.score_chunk_mb * 2**20)
    return result


def has_valid_name(context: StepContext, inbox: Inbox, name: str, bad: list[dict[str, str]]) -> bool:
    """Whether a name can be passed to a task; one that cannot is moved to quarantine and added to `bad`."""
    try:
        refuse_unprintable(name)
    except DataError as error:
        try:
            quarantine_unreadable(context, inbox, name, str(error))
        except UnreadableError as stays:  # it cannot be moved either; the alert is raised
            logger.error("drop_not_moved name=%s reason=%s", printable(name), stays)
        bad.append({"drop": printable(name), "reason": str(error)})
        return False
    return True
