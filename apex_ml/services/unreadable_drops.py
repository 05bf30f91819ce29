"""Quarantine files of the inbox that cannot be read or have an invalid name, with an alert."""

from __future__ import annotations

import logging

from apex_ml.adapters.postgres.alerts import raise_bad_drop
from apex_ml.adapters.storage.inboxes import DropInbox
from apex_ml.adapters.storage.waiting import printable
from apex_ml.services.run_folder import StepContext

logger = logging.getLogger(__name__)


def quarantine_unreadable(context: StepContext, inbox: DropInbox, name: str, reason: str) -> None:
    """Move an unreadable file to quarantine, so that it does not block other drops, and raise an alert."""
    logger.warning("drop_unreadable name=%s reason=%s", printable(name), reason)
    raise_bad_drop(context.settings, context.schema, printable(name), reason, context.run)
    inbox.quarantine_unreadable(name, {"reason": reason})
