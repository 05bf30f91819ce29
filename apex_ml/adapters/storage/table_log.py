"""The commits of a table, as a source of drops. Delta and Iceberg implement it."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal, Protocol

from apex_ml.adapters.storage.files import map_disk_errors
from apex_ml.adapters.storage.local import LocalStorage, local_stat
from apex_ml.adapters.storage.object_store import CHUNK
from apex_ml.adapters.storage.storage import Storage
from apex_ml.core.table_version import TableVersion

CommitKind = Literal["append", "change", "none"]
"""Whether a commit only adds rows, or changes or removes rows that were there, or leaves the rows as they are."""


@dataclass(frozen=True)
class TableCommit:
    """One commit of a table: the version that it makes, and the size of the files that it adds."""

    table: TableVersion
    kind: CommitKind
    operation: str
    bytes: int = 0


@dataclass(frozen=True)
class Position:
    """The version up to which every commit was handled; without a version none was.

    `sequence` counts the commits of the table, where the format does.
    """

    version: int | None = None
    committed_at: datetime | None = None
    sequence: int | None = None


@dataclass(frozen=True)
class Commits:
    """Commits in row. `lost` names those between the position and the first of them that the log has no more."""

    commits: Sequence[TableCommit]
    lost: str = ""


class TableState(Protocol):
    """A table at one time."""

    @property
    def newest(self) -> TableVersion:
        """The newest version."""
        ...

    def after(self, position: Position) -> Commits:
        """The commits after a position, oldest first."""
        ...

    def at(self, version: int) -> Position:
        """The position directly behind a version that the log has."""
        ...

    def before(self, version: int) -> Position:
        """The position directly before a version. Raises :class:`~apex_ml.errors.ConfigError` for an unknown one."""
        ...

    def commit(self, version: int) -> TableCommit:
        """One commit. Raises FileNotFoundError when the log does not have it."""
        ...

    def write_rows(self, commit: TableCommit, path: Path) -> None:
        """Write the rows that a commit added to a parquet file, with all columns that the table has now.

        Raises FileNotFoundError when a file of the table is gone, and :class:`~apex_ml.errors.DataError` for one that
        cannot be read.
        """


class TableLog(Protocol):
    """A table at a location."""

    def read(self) -> TableState | None:
        """The table now; None while there is none.

        Raises :class:`~apex_ml.errors.DataError` for a table that Apex does not read.
        """
        ...


@contextmanager
def local_copy(storage: Storage, key: str, scratch: Path) -> Iterator[Path]:
    """A file of a table as a local file; that of an object store is copied while the block runs."""
    if isinstance(storage, LocalStorage):
        path = storage.path(key)
        local_stat(path, key)
        yield path
        return
    copy = scratch / f"{uuid.uuid4().hex}.part"
    try:
        with map_disk_errors(scratch), storage.open(key) as stream, copy.open("xb") as file:
            shutil.copyfileobj(stream, file, CHUNK)
        yield copy
    finally:
        copy.unlink(missing_ok=True)
