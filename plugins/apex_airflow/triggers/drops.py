"""The trigger that notices new files and folders in the inbox."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseEventTrigger, TriggerEvent

from apex_airflow.inbox import FileStates, list_files
from apex_ml.contract.scoring_options import FolderRule

MAX_NAMES = 20
"""Names in an event."""


class DropTrigger(BaseEventTrigger):
    """Fire once for every file and every complete folder in the inbox that has settled.

    A file has settled when its size and mtime are equal in two consecutive listings, so a file that is still being
    written causes no event. Hidden and temporary names are ignored, by the same rule as in scoring. Files that
    settle in the same listing share one event, ``{"count": n, "files": [the first 20 names]}``. A file that returns
    with another size or mtime counts as new.

    The event only wakes the DAG ``<pipeline>_score``, which asks the ledger what to do. A restarted triggerer may emit
    events for the same files again. An inbox that cannot be read is logged once; the trigger keeps trying.
    """

    def __init__(self, inbox: str, poll_seconds: float, folders: dict[str, Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.inbox, self.poll_seconds, self.folders = inbox, poll_seconds, folders

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments from which the triggerer creates this trigger again."""
        names = ("inbox", "poll_seconds", "folders")
        return f"{__name__}.{type(self).__name__}", {name: getattr(self, name) for name in names}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Poll forever; yield an event whenever files have settled."""
        rule = FolderRule(**self.folders)
        previous: FileStates = {}
        emitted: FileStates = {}
        unreadable = False
        while True:
            try:
                current = await asyncio.to_thread(list_files, self.inbox, rule)
            except OSError as error:
                if not unreadable:
                    self.log.warning("inbox %s cannot be read, trying again: %s", self.inbox, error)
                unreadable, previous = True, {}
            else:
                if unreadable:
                    self.log.info("inbox %s can be read again", self.inbox)
                unreadable = False
                settled = [name for name, state in current.items() if previous.get(name) == state != emitted.get(name)]
                # forget names that left the inbox, to limit the memory and to report a name that returns
                emitted = {name: state for name, state in emitted.items() if name in current}
                emitted.update({name: current[name] for name in settled})
                previous = current
                if settled:
                    # a name can be invalid UTF-8, which the log and the database do not accept
                    names = [os.fsencode(name).decode("utf-8", "replace") for name in settled[:MAX_NAMES]]
                    self.log.info("new drops: %s (%s)", len(settled), ", ".join(names))
                    yield TriggerEvent({"count": len(settled), "files": names})
            await asyncio.sleep(self.poll_seconds)
