"""The port to the drops of a pipeline: which wait, their bytes as a local file, and their places when they are done.

A folder (:class:`~apex_ml.adapters.storage.drops.Inbox`) and an object store
(:class:`~apex_ml.adapters.storage.object_inbox.ObjectInbox`) implement it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from apex_ml.adapters.storage.waiting import Waiting, printable
from apex_ml.text import visible

DropStatus = Literal["same", "changed", "gone"]
"""Whether a drop is still the one that was read."""


@dataclass(frozen=True)
class Part:
    """A data file of a drop that is a folder. Its name is the path from there, with folders such as country=PE."""

    path: Path
    name: str


@dataclass(frozen=True)
class FetchedDrop:
    """The bytes of a drop as a local file or folder, which its reader must not change."""

    drop: Waiting
    path: Path
    sha256: str
    """Of the bytes, or of a folder of the lines that sha256sum writes about its parts, sorted by name."""
    status: Callable[[], DropStatus]
    """Looks at the drop again."""
    parts: tuple[Part, ...] = ()
    """The data files of a folder, sorted by name; none for a file."""


class DropInbox(Protocol):
    """The drops of a pipeline."""

    @property
    def inbox(self) -> Path | str:
        """Where drops arrive, for messages."""
        ...

    @property
    def fate_of_bad_drops(self) -> str:
        """What was done with bad drops and where they are, for messages: ``were moved to …``."""
        ...

    def prepare(self) -> None:
        """Make sure that drops can be read and moved. Raises ConfigError when they cannot."""

    def look(self) -> list[Waiting]:
        """The drops that wait, oldest first."""
        ...

    def folders(self) -> dict[str, str]:
        """The folders where drops arrive that are no complete drops, and why. They stay where they are."""
        ...

    def settled(self) -> list[Waiting]:
        """The drops that wait and that nobody is writing."""
        ...

    def listed(self) -> tuple[list[Waiting], dict[str, str]]:
        """As :meth:`settled` and :meth:`folders`, by one listing where that is a request."""
        return self.settled(), self.folders()

    def late(self, minutes: float, now: float | None = None) -> dict[str, str]:
        """The drops that arrived more than a number of minutes ago, each with a message."""
        ...

    def unfinished(self, drop: Waiting, now: float | None = None) -> str | None:
        """Why a drop is not scored yet: its upload has not ended. None when it has."""
        ...

    def known_content(self, name: str) -> tuple[Waiting, str] | None:
        """A drop whose content is known without reading it, with its sha256; None when it has to be read."""
        ...

    def fetch(self, name: str, scratch: Path) -> AbstractContextManager[FetchedDrop]:
        """The bytes of a drop as a local file, while the block runs.

        Raises FileNotFoundError when the drop is gone, :class:`~apex_ml.errors.DataError` for what is no file or
        may not be read, and :class:`~apex_ml.adapters.storage.files.UnreadableError` for a failing disk or
        store.
        """
        ...

    def scored(self, name: str, sha256: str, scratch: Path) -> AbstractContextManager[FetchedDrop | None]:
        """A scored drop as a local file; None while it is still to be moved.

        Raises :class:`~apex_ml.errors.DataError` when no file of this content exists any more.
        """
        ...

    def finish(self, drop: Waiting, sha256: str) -> Path | str:
        """Put a scored drop where it stays; returns that place."""
        ...

    def reject(self, drop: Waiting, sha256: str, reason: dict[str, Any]) -> Path | str:
        """Put a bad drop into quarantine, with the reason beside it; returns its place."""
        ...

    def quarantine_unreadable(self, name: str, reason: dict[str, Any]) -> Path | str:
        """Put a drop that cannot be read into quarantine, with the reason beside it; returns its place."""
        ...

    def remove(self, names: set[str], shas: set[str]) -> None:
        """Remove the files of these names and contents from everywhere: in the inbox they would be scored again."""


def late_drops(drops: Iterable[Waiting], place: object, minutes: float, now: float | None) -> dict[str, str]:
    """The drops that arrived more than a number of minutes before `now`, each with a message."""
    now = time.time() if now is None else now
    messages = {}
    for drop in drops:
        if (waited := drop.minutes(now)) > minutes:
            name = printable(drop.name)
            messages[name] = f"{visible(name)} has waited in {place} for {waited:.0f} minutes; {minutes:g} are allowed"
    return messages
