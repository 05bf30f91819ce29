"""Read the log of a Delta table: the files of its newest version, and what one commit changed.

Commits are JSON and are read here. A log that begins in a checkpoint is read by the package deltalake, which is an
extra.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from apex_ml.adapters.storage.delta_checkpoint import read_by_library
from apex_ml.core.table_version import TableVersion, from_ms
from apex_ml.errors import DataError

DELTA_LOG = "_delta_log"
DELETED_ROWS = "it has deletion vectors"
_VERSION = re.compile(r"(\d{20})\.json")
_CHECKPOINT = re.compile(r"(\d{20})\.checkpoint\..*")
_HARMLESS = frozenset(("timestampNtz", "columnMapping", "deletionVectors", "vacuumProtocolCheck", "v2Checkpoint"))
"""Features of a Delta table that change nothing for a reader of its files, or that are checked one by one."""


@dataclass(frozen=True)
class DeltaVersion:
    """One version of a table: its files by path from the folder of the table, with the values of its partitions."""

    table: TableVersion
    partitions: tuple[str, ...]
    files: Mapping[str, Mapping[str, str | None]]


@dataclass
class DeltaCommit:
    """What a commit changed: files with their actions, by path from the folder of the table."""

    added: dict[str, dict[str, Any]] = field(default_factory=dict)
    removed: dict[str, dict[str, Any]] = field(default_factory=dict)
    protocol: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None
    info: dict[str, Any] = field(default_factory=dict)


def is_log_file(name: str) -> bool:
    """Whether a file in the folder of the log is a commit or a checkpoint."""
    return commit_version(name) is not None or _CHECKPOINT.fullmatch(name) is not None


def commit_version(name: str) -> int | None:
    """The version of a commit, from the name of its file; None for another file.

    >>> commit_version("00000000000000000012.json"), commit_version("_last_checkpoint")
    (12, None)
    """
    match = _VERSION.fullmatch(name)
    return None if match is None else int(match[1])


def read_version(folder: Path, shown: str) -> DeltaVersion | None:
    """The newest version of the Delta table in a folder; None when its log has no commit.

    `shown` is the name of the table in messages. Raises :class:`~apex_ml.errors.DataError` for a table that cannot be
    read as plain files.
    """
    log = folder / DELTA_LOG
    names = sorted(path.name for path in log.iterdir() if is_log_file(path.name))
    if not names:
        return None
    if any(path.is_dir() and any(path.iterdir()) for path in (log / "_commits", log / "_staged_commits")):
        raise refusal(shown, "its commits are coordinated by a catalog")
    versions = [version for name in names if (version := commit_version(name)) is not None]
    checkpoints = [int(match[1]) for name in names if (match := _CHECKPOINT.fullmatch(name))]
    if versions != list(range(len(versions))) or any(version >= len(versions) for version in checkpoints):
        newest = max([*versions, *checkpoints])
        return _from_checkpoint(folder, shown, newest)
    state = _State(shown)
    for version in versions:
        state.apply(read_commit(log / f"{version:020d}.json", shown))
    return state.at(versions[-1], folder.name)


def _from_checkpoint(folder: Path, shown: str, version: int) -> DeltaVersion:
    def refuse(why: str) -> DataError:
        return refusal(shown, why)

    read = read_by_library(folder, shown, version, refuse)
    protocol, metadata = {"readerFeatures": read.features}, {"configuration": read.configuration}
    check_features(DeltaCommit(protocol=protocol, metadata=metadata), refuse)
    if read.has_deleted_rows:
        raise refuse(DELETED_ROWS)
    commit = folder / DELTA_LOG / f"{version:020d}.json"
    at = commit_time(read_commit(commit, shown)) if commit.exists() else None
    table = TableVersion("delta", folder.name, read.table_id, version, at)
    files = {_relative(path, commit, shown): values for path, values in read.files.items()}
    return DeltaVersion(table, read.partitions, files)


def refusal(shown: str, why: str) -> DataError:
    """The error about a table that cannot be read as plain files."""
    return DataError(not_read(shown, "a Delta table", why))


def not_read(shown: str, kind: str, why: str) -> str:
    """The message that a table is not read, with the remedy."""
    return (
        f"{shown}: is {kind} that Apex does not read ({why}); export it as plain parquet into a folder of its own, for"
        " example by spark.table(…).write.parquet(…), and name that folder"
    )


def damaged(path: Path, shown: str, what: str) -> str:
    """The message about a marker or a log that cannot be read."""
    return (
        f"{shown}/{path.name}: cannot be read ({what}), so that nobody knows which files are data; deliver the folder"
        " again, or remove its markers and logs if every file of it is"
    )


def read_object(path: Path, shown: str, text: str) -> dict[str, Any]:
    """A JSON object of a log. Raises :class:`~apex_ml.errors.DataError` for anything else."""
    try:
        content = json.loads(text)
    except ValueError as error:
        raise DataError(damaged(path, shown, f"not JSON: {error}")) from error
    if not isinstance(content, dict):
        raise DataError(damaged(path, shown, "not a JSON object"))
    return content


def read_text(path: Path, shown: str) -> str:
    """The text of a log. Raises :class:`~apex_ml.errors.DataError` when it is no UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(damaged(path, shown, "not UTF-8")) from error


def read_commit(path: Path, shown: str) -> DeltaCommit:
    """The actions of one commit. Raises :class:`~apex_ml.errors.DataError` for one that cannot be read."""
    commit = DeltaCommit()
    for line in filter(str.strip, read_text(path, shown).splitlines()):
        action = read_object(path, shown, line)
        if add := action.get("add"):
            commit.added[_relative(add.get("path"), path, shown)] = add
        elif remove := action.get("remove"):
            commit.removed[_relative(remove.get("path"), path, shown)] = remove
        elif protocol := action.get("protocol"):
            commit.protocol = protocol
        elif metadata := action.get("metaData"):
            commit.metadata = metadata
        elif info := action.get("commitInfo"):
            commit.info = info
    return commit


def commit_time(commit: DeltaCommit) -> datetime | None:
    """When a commit was made: the time that its writer gave, else that of its newest file; None without both."""
    times = [add.get("modificationTime") for add in commit.added.values()]
    newest = max((time for time in times if isinstance(time, int)), default=None)
    return from_ms(commit.info.get("inCommitTimestamp") or commit.info.get("timestamp")) or from_ms(newest)


class _State:
    """The state of a table while its commits are applied in row."""

    def __init__(self, shown: str) -> None:
        self._shown = shown
        self._files: dict[str, dict[str, Any]] = {}
        self._metadata: dict[str, Any] = {}
        self._time: datetime | None = None

    def apply(self, commit: DeltaCommit) -> None:
        """Apply the actions of one commit."""
        check_features(commit, lambda why: refusal(self._shown, why))
        for path in commit.removed.keys() - commit.added.keys():
            self._files.pop(path, None)
        self._files |= commit.added
        self._metadata = commit.metadata or self._metadata
        self._time = commit_time(commit)

    def at(self, version: int, name: str) -> DeltaVersion:
        """The version. Raises :class:`~apex_ml.errors.DataError` when its files hold deleted rows."""
        if any(add.get("deletionVector") for add in self._files.values()):
            raise refusal(self._shown, DELETED_ROWS)
        table = TableVersion("delta", name, str(self._metadata.get("id", "")), version, self._time)
        files = {path: add.get("partitionValues") or {} for path, add in self._files.items()}
        return DeltaVersion(table, tuple(self._metadata.get("partitionColumns") or ()), files)


def check_features(commit: DeltaCommit, refuse: Callable[[str], DataError]) -> None:
    """Raise the error when a commit makes the table one that cannot be read as plain files."""
    for why in _unreadable(commit):
        raise refuse(why)


def _unreadable(commit: DeltaCommit) -> Iterator[str]:
    protocol = commit.protocol or {}
    others = set(protocol.get("readerFeatures") or ()) - _HARMLESS
    if protocol.get("minReaderVersion", 1) > 3 or others:
        yield f"it needs {', '.join(sorted(others)) or 'a newer reader'}"
    if ((commit.metadata or {}).get("configuration") or {}).get("delta.columnMapping.mode", "none") != "none":
        yield "its columns are mapped to other names"


def _relative(path: object, log: Path, shown: str) -> str:
    if not isinstance(path, str):
        raise DataError(damaged(log, shown, "an action has no path"))
    if path.startswith(("/", "file:")) or "://" in path or ".." in path.split("/"):
        raise refusal(shown, "its files are outside its folder")
    return unquote(path)
