"""How many drops wait in object stores, for pages: listed in the background, so that no page waits for a store."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor, TimeoutError
from dataclasses import dataclass
from threading import Lock

from apex_ml.contract.pipeline import PipelineSettings
from apex_ml.errors import ApexError
from apex_ml.file_names import hidden

FRESH_SECONDS = 15.0
"""Age at which a count is made again."""
WAIT_SECONDS = 0.15
"""How long a page waits for a count that is being made."""


@dataclass
class _Count:
    number: int | None = None
    made_at: float = float("-inf")
    running: Future[int | None] | None = None


class WaitingObjects:
    """The number of drops below ``inbox/`` by location. A store that does not answer has None."""

    def __init__(self) -> None:
        self._counts: dict[str, _Count] = {}
        self._lock = Lock()
        self._pool = ThreadPoolExecutor(4, thread_name_prefix="waiting-objects")

    def count(self, pipeline: PipelineSettings) -> int | None:
        """The last known number; an old one is made again meanwhile."""
        with self._lock:
            count = self._counts.setdefault(pipeline.locations.drops, _Count())
            if count.running is None and time.monotonic() - count.made_at > FRESH_SECONDS:
                count.running = self._pool.submit(_list, pipeline)
            running = count.running
        if running is None:
            return count.number
        try:
            number = running.result(WAIT_SECONDS)
        except TimeoutError:
            return count.number
        with self._lock:
            if count.running is running:
                count.number, count.made_at, count.running = number, time.monotonic(), None
        return number


def _list(pipeline: PipelineSettings) -> int | None:
    from apex_ml.adapters.storage.stores import open_objects

    try:
        storage = open_objects(pipeline.locations, pipeline.locations.drops)
        rule = pipeline.options.scoring.folder_rule(kept=False)
        if rule.complete == "never":
            return sum(not hidden(file.name) for file in storage.list("inbox/"))
        keys = [file.key.removeprefix("inbox/") for file in storage.list_all("inbox/")]
        inside = {key for key in keys if "/" in key and not hidden(key.partition("/")[0])}
        folders = {key.partition("/")[0] for key in inside}
        if rule.complete != "quiet":
            folders = {name for name in folders if f"{name}/{rule.file}" in inside}
        return len(folders) + sum("/" not in key and not hidden(key) for key in keys)
    except (ApexError, FileNotFoundError):
        return None


WAITING_OBJECTS = WaitingObjects()
"""The counts of this process."""
