"""A drop that waits, and what its name must be like. The folder and the object store share it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from apex_ml.adapters.storage.local import local_stat
from apex_ml.adapters.storage.storage import StoredFile
from apex_ml.errors import DataError

PLACE = "locations.drops"
"""The key of the folder of drops in a pipeline's file."""
INBOX, DONE, QUARANTINE = "inbox", "done", "quarantine"
REASON = ".reason.json"
BESIDE_A_NAME = len(f"..12345678{REASON}.tmp")
"""Additional bytes in the temporary name of the file with the reason."""


@dataclass(frozen=True)
class KnownObject:
    """The content of an object that was scored or refused.

    `state` is that of the ledger's drop, `done` or `failed`; `removed` when a person removed it.
    """

    sha256: str
    state: str


@dataclass(frozen=True)
class Waiting:
    """The state of a file or folder in the inbox: name, size in bytes, modification time in ns."""

    name: str
    size: int
    mtime_ns: int
    arrived_ns: int = field(default=0, compare=False)
    """When it got this name here, or was last written if that is later. A copy may keep the modification time of its
    original. A move to another folder changes this time, so that it says nothing about the content."""
    version: str = ""
    """Version of the content, from the storage."""
    folder: bool = False
    """Whether it is a folder: size and times are those of all its files, of which `version` is a digest."""
    corrects: bool = field(default=True, compare=False)
    """Whether it replaces an older drop of its name. An append to a table adds to what was there."""
    files: tuple[StoredFile, ...] = field(default=(), compare=False, repr=False)
    """The files of a folder, by their paths from there."""

    @classmethod
    def of(cls, file: StoredFile, name: str | None = None) -> Waiting:
        """The drop that is this file, under the last part of its key or another name."""
        return cls(file.name if name is None else name, file.size, file.modified_ns, file.arrived_ns, file.version)

    @classmethod
    def of_folder(cls, name: str, files: Iterable[StoredFile]) -> Waiting:
        """The drop that is a folder with these files, whose keys are paths from there."""
        files = sorted(files, key=lambda file: file.key)
        listing = "".join(f"{file.key}\0{file.size}\0{file.version}\n" for file in files)
        return cls(
            name,
            sum(file.size for file in files),
            max((file.modified_ns for file in files), default=0),
            max((file.arrived_ns for file in files), default=0),
            hashlib.sha256(listing.encode("utf-8", "surrogateescape")).hexdigest(),
            folder=True,
            files=tuple(files),
        )

    def file_at(self, key: str) -> StoredFile:
        """The file with a key that is this drop."""
        return StoredFile(key, self.size, self.version, self.mtime_ns, self.arrived_ns)

    def minutes(self, now: float) -> float:
        """Minutes from its arrival or last change to `now`, in seconds since 1970."""
        return (now - self.arrived_ns / 1e9) / 60


def file_state(path: Path, name: str) -> Waiting:
    """The current state of a file, under the name of its drop.

    Raises FileNotFoundError when it is gone, :class:`~apex_ml.errors.DataError` when it is not a file or may not be
    read, and :class:`~apex_ml.adapters.storage.files.UnreadableError` when its disk fails.
    """
    return Waiting.of(local_stat(path, name))


def printable(name: str) -> str:
    """A file's name as text that can be stored and sent: bytes that are not UTF-8 are replaced."""
    return os.fsencode(name).decode("utf-8", "replace")


def refuse_unprintable(name: str) -> None:
    """Raise :class:`~apex_ml.errors.DataError` for a name that Postgres and JSON cannot hold."""
    if (shown := printable(name)) != name:
        raise DataError(f"{shown}: its name is not UTF-8; rename it and deliver it again")
