"""Notice new files in the inbox."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import unquote, urlparse

from airflow.triggers.base import BaseEventTrigger, TriggerEvent

from apex_ml.adapters.storage.local import hidden

Look = dict[str, tuple[int, int]]
"""What one look at the inbox saw: file name to (bytes, mtime in ns)."""

NAMES_IN_EVENT = 20


class DropTrigger(BaseEventTrigger):
    """Fire once for every file that has settled in the inbox.

    A file counts when its size and mtime are equal in two looks that follow each other, so a file that is still being
    written is left alone. Hidden and temporary names are ignored, by the same function as in apex_score. Files that
    settle in the same look share one event, ``{"count": n, "files": [the first 20 names]}``. A file that comes back
    with another size or mtime is new.

    The event only wakes apex_score: what there is to do is asked of the ledger. So it does no harm that a restarted
    triggerer announces the waiting files again. An inbox that cannot be read is logged once and looked at again.
    """

    def __init__(self, inbox: str, poll_seconds: float = 2.0) -> None:
        super().__init__()
        self.inbox = inbox
        self.poll_seconds = poll_seconds

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments from which the triggerer makes this trigger again."""
        return f"{__name__}.{type(self).__name__}", {"inbox": self.inbox, "poll_seconds": self.poll_seconds}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look for ever; yield an event whenever files have settled."""
        before: Look = {}
        announced: Look = {}
        unreadable = False
        while True:
            try:
                now = await asyncio.to_thread(look, self.inbox)
            except OSError as error:
                if not unreadable:
                    self.log.warning("inbox %s cannot be read, looking again: %s", self.inbox, error)
                unreadable, before = True, {}
            else:
                if unreadable:
                    self.log.info("inbox %s can be read again", self.inbox)
                unreadable = False
                new = [name for name, state in now.items() if before.get(name) == state != announced.get(name)]
                # A name that left the inbox is forgotten: memory stays bounded, and its return is news.
                announced = {name: state for name, state in announced.items() if name in now}
                announced.update({name: now[name] for name in new})
                before = now
                if new:
                    # a name may be no UTF-8, which neither log nor database take
                    names = [os.fsencode(name).decode("utf-8", "replace") for name in new[:NAMES_IN_EVENT]]
                    self.log.info("new drops: %s (%s)", len(new), ", ".join(names))
                    yield TriggerEvent({"count": len(new), "files": names})
            await asyncio.sleep(self.poll_seconds)


def inbox_folder(drops: str) -> str | None:
    """Return the folder where drops arrive, below the URL or folder of the drops; None when it is not a local one."""
    url = urlparse(drops)
    if url.scheme not in ("", "file"):
        return None
    return os.path.join(unquote(url.path) if url.scheme else drops, "inbox")


def look(inbox: str) -> Look:
    """Return size and mtime of everything in the inbox that may be a drop, in order of name: all but folders.

    What cannot be read is among it, for apex_score to tell and set aside.
    """
    seen: Look = {}
    with os.scandir(inbox) as entries:
        for entry in entries:
            if hidden(entry.name):
                continue
            try:
                status = _stat(entry)
            except FileNotFoundError:  # moved to done/ since it was listed
                continue
            if not stat.S_ISDIR(status.st_mode):
                seen[entry.name] = (status.st_size, status.st_mtime_ns)
    return dict(sorted(seen.items()))


def _stat(entry: os.DirEntry[str]) -> os.stat_result:
    try:
        return entry.stat()
    except OSError:  # a link to nothing or to itself, a failing disk
        return entry.stat(follow_symlinks=False)
