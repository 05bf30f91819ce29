"""The trigger that notices new objects below a prefix of an object store."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseEventTrigger, TriggerEvent

from apex_airflow.triggers.drops import MAX_NAMES
from apex_airflow.triggers.events import nudges
from apex_ml.contract.scoring_options import FolderRule
from apex_ml.errors import ApexError
from apex_ml.file_names import hidden
from apex_ml.pipeline_settings import load_pipeline_settings
from apex_ml.settings import Settings

if TYPE_CHECKING:  # a DAG file is parsed without obstore
    from apex_ml.adapters.storage.object_store import ObjectStorage

SHORTEST_PAUSE = 1.0
"""Seconds between two looks, however many messages come."""
LONGEST_PAUSE = 120.0
"""Seconds between two looks at a store that does not answer."""


class ObjectTrigger(BaseEventTrigger):
    """Fire once for every new version of an object that can be a drop.

    An object appears when its upload has ended, so that one look is enough. Objects of one look share one event,
    ``{"count": n, "files": [the first 20 keys]}``. After a look that fails the next one waits twice as long, up to two
    minutes. Of a folder that is a drop only the marker or manifest counts, or that nothing in it has changed for a
    while. With ascending keys only those after the last one are listed; an object whose key sorts earlier is
    noticed by the sweep.

    A message of the queue `events` only makes the next look happen at once, at most one a second; whatever it says, and
    whether it comes once, never or too late, the looks announce the same objects. While the store does not answer,
    messages do not shorten the pauses.

    The event only wakes the DAG ``<pipeline>_score``, which asks the ledger what to do.
    """

    def __init__(
        self,
        pipeline: str,
        inbox: str,
        poll_seconds: float,
        deep: bool,
        ascending: bool,
        folders: dict[str, Any],
        events: str = "",
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.pipeline, self.inbox, self.poll_seconds = pipeline, inbox, poll_seconds
        self.deep, self.ascending, self.folders, self.events = deep, ascending, folders, events

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments from which the triggerer creates this trigger again."""
        names = ("pipeline", "inbox", "poll_seconds", "deep", "ascending", "folders", "events")
        return f"{__name__}.{type(self).__name__}", {name: getattr(self, name) for name in names}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Poll forever; yield an event whenever there are new objects."""
        storage: ObjectStorage | None = None
        folders = _Folders(FolderRule(**self.folders))
        versions: dict[str, str] = {}
        last, pause, fails = "", self.poll_seconds, False
        async with nudges(self.events, self.log) as nudge:
            while True:
                nudge.clear()  # a message that comes while the store is listed makes it be listed once more
                try:
                    if storage is None:
                        storage = await asyncio.to_thread(self._open)
                    files = await storage.list_async("", deep=self.deep, after=last or None)
                except (ApexError, FileNotFoundError) as error:
                    if not fails:
                        self.log.warning("inbox %s cannot be listed, trying again: %s", self.inbox, error)
                    storage, fails, pause = None, True, min(2 * pause, max(LONGEST_PAUSE, self.poll_seconds))
                    await asyncio.sleep(pause)
                    continue
                if fails:
                    self.log.info("inbox %s can be listed again", self.inbox)
                pause, fails = self.poll_seconds, False
                listed = {f.key: f.version for f in files if folders.may_count(f.key)}
                changed = sorted(key for key, version in listed.items() if versions.get(key) != version)
                new = folders.noticed(changed, time.monotonic())
                # with ascending keys the last one is enough
                versions = {} if self.ascending else listed
                last = max([last, *listed]) if self.ascending else ""
                if new:
                    self.log.info("new drops: %s (%s)", len(new), ", ".join(new[:MAX_NAMES]))
                    yield TriggerEvent({"count": len(new), "files": new[:MAX_NAMES]})
                await self._wait(nudge)

    async def _wait(self, nudge: asyncio.Event) -> None:
        """Wait until the next look is due, or until a message comes, but for a short time at least."""
        shortest = min(SHORTEST_PAUSE, self.poll_seconds)
        await asyncio.sleep(shortest)
        with suppress(TimeoutError):
            await asyncio.wait_for(nudge.wait(), self.poll_seconds - shortest)

    def _open(self) -> ObjectStorage:
        from apex_ml.adapters.storage.stores import open_objects

        settings = Settings.load().model_copy(update={"pipeline": self.pipeline})
        return open_objects(load_pipeline_settings(settings).locations, self.inbox)


class _Folders:
    """Which objects count as news where a folder may be a drop."""

    def __init__(self, rule: FolderRule) -> None:
        self._rule = rule
        self._changed: dict[str, float] = {}

    def may_count(self, key: str) -> bool:
        """Whether an object is a drop, in a drop, or says that one is complete."""
        above, _, name = key.rpartition("/")
        if self._rule.complete in ("marker", "manifest") and above and name == self._rule.file:
            name = "visible"
        return not any(hidden(part) for part in (*above.split("/"), name) if part)

    def noticed(self, changed: list[str], now: float) -> list[str]:
        """Of the objects that have changed those that are news, and the folders that have been quiet since."""
        if self._rule.complete == "never":
            return changed
        single = [key for key in changed if "/" not in key]
        inside = [key for key in changed if "/" in key]
        if self._rule.complete != "quiet":
            return single + [key for key in inside if key.rpartition("/")[2] == self._rule.file]
        self._changed |= {key.partition("/")[0]: now for key in inside}
        quiet = [name for name, at in self._changed.items() if now - at >= self._rule.quiet_seconds]
        for name in quiet:
            del self._changed[name]
        return single + quiet
