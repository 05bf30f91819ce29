"""Find which files of a folder are data, from the log of a table format or of the writer.

Spark on Databricks marks the files of a commit; a Delta table and a streaming sink write a log. A file that these do
not list belongs to an older state of the table, or is unfinished. Formats whose log Apex does not read are refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from apex_ml.adapters.storage.path_keys import path_keys
from apex_ml.errors import DataError

STARTED, COMMITTED = "_started_", "_committed_"
DELTA_LOG, SINK_LOG, HUDI = "_delta_log", "_spark_metadata", ".hoodie"
_TRANSACTION = re.compile(r"-tid-(\d+)-")
_VERSION = re.compile(r"(\d{20})\.json")
_CHECKPOINT = re.compile(r"(\d{20})\.checkpoint\..*")
_BATCH = re.compile(r"(\d+)(\.compact)?")
_HARMLESS = frozenset(("timestampNtz", "columnMapping", "deletionVectors", "vacuumProtocolCheck", "v2Checkpoint"))
"""Features of a Delta table that change nothing for a reader of its files, or that are checked one by one."""


@dataclass(frozen=True)
class Listed:
    """The files that a log lists for a folder and the folders below it, by path from that folder.

    `why` returns the reason why a file is not data, None for data. `missing` returns the listed files that are not in
    the folder but should be.
    """

    why: Callable[[str], str | None]
    missing: Callable[[Collection[str]], list[str]] = lambda files: []
    complete: bool = False
    """Whether a missing file makes the data wrong; such a folder is refused."""


def listed_files(
    folder: Path, shown: str, names: Collection[str], folders: Collection[str], columns: Collection[str]
) -> Listed | None:
    """The files that a log in the folder lists; None without a log. `columns` must be in the files themselves.

    Raises :class:`~apex_ml.errors.DataError` for a table that cannot be read as plain files.
    """
    if (kind := foreign_format(folder, names, folders)) is not None:
        raise DataError(_refusal(shown, kind, "its log is not read"))
    if DELTA_LOG in folders and (listed := _delta(folder / DELTA_LOG, shown, columns)) is not None:
        return listed
    if SINK_LOG in folders and (listed := _sink(folder / SINK_LOG, shown)) is not None:
        return listed
    return _transactions(folder, shown, names)


def foreign_format(folder: Path, names: Collection[str], folders: Collection[str]) -> str | None:
    """The name of a table format that Apex does not read; None for another folder."""
    if HUDI in folders or ".hoodie_partition_metadata" in names:
        return "a Hudi table"
    if "metadata" in folders:
        inside = [path.name for path in (folder / "metadata").iterdir()]
        if any(name.endswith(".metadata.json") or name == "version-hint.text" for name in inside):
            return "an Iceberg table"
    return None


def table_above(folder: Path) -> tuple[Path, str] | None:
    """The table that a folder is inside of, and its format; None when it is in no table."""
    for parent in folder.parents:
        try:
            folders = {path.name for path in parent.iterdir() if path.is_dir()} & {DELTA_LOG, HUDI, "metadata"}
            kind = foreign_format(parent, (), folders)
            if kind is None and DELTA_LOG in folders and any(map(_is_commit, (parent / DELTA_LOG).iterdir())):
                kind = "a Delta table"
        except OSError:  # a folder that may not be read is not the user's table
            continue
        if kind is not None:
            return parent, kind
    return None


def _refusal(shown: str, kind: str, why: str) -> str:
    return (
        f"{shown}: is {kind} that Apex does not read ({why}); export it as plain parquet into a folder of its own, for"
        " example by spark.table(…).write.parquet(…), and name that folder"
    )


def _json(path: Path, shown: str, text: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise DataError(_damaged(path, shown, f"not JSON: {error}")) from error
    if not isinstance(content, dict):
        raise DataError(_damaged(path, shown, "not a JSON object"))
    return content


def _damaged(path: Path, shown: str, what: str) -> str:
    return (
        f"{shown}/{path.name}: cannot be read ({what}), so that nobody knows which files are data; deliver the folder"
        " again, or remove its markers and logs if every file of it is"
    )


def _text(path: Path, shown: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(_damaged(path, shown, "not UTF-8")) from error


def _transactions(folder: Path, shown: str, names: Collection[str]) -> Listed | None:
    """The files of Databricks' commit markers. A file that no marker names is data."""
    started = {name.removeprefix(STARTED) for name in names if name.startswith(STARTED)}
    added: dict[str, set[str]] = {}
    removed: dict[str, str] = {}
    for name in sorted(n for n in names if n.startswith(COMMITTED)):
        marker = _json(folder / name, shown, _text(folder / name, shown))
        for key in ("added", "removed"):
            listed = marker.get(key) or []
            if not isinstance(listed, list) or not all(isinstance(file, str) for file in listed):
                raise DataError(_damaged(folder / name, shown, f"{key} is no list of files"))
            if key == "added":
                added[name.removeprefix(COMMITTED)] = set(map(unquote, listed)) | set(listed)
            else:
                removed |= dict.fromkeys([*listed, *map(unquote, listed)], name)
    if not (started or added):
        return None

    def why(file: str) -> str | None:
        if file in removed:
            return f"{removed[file]} lists it as removed"
        if "/" in file or (match := _TRANSACTION.search(file)) is None:
            return None
        transaction = match[1]
        if transaction in added:
            return None if file in added[transaction] else f"{COMMITTED}{transaction} does not list it"
        return f"{STARTED}{transaction} was never committed" if transaction in started else None

    def missing(present: Collection[str]) -> list[str]:
        listed = {file for files in added.values() for file in files if unquote(file) == file}
        return sorted(listed - set(removed) - set(present))

    return Listed(why, missing)


def _is_commit(path: Path) -> bool:
    return _VERSION.fullmatch(path.name) is not None or _CHECKPOINT.fullmatch(path.name) is not None


def _delta(log: Path, shown: str, columns: Collection[str]) -> Listed | None:
    """The files of the newest version of a Delta table, from the commits of its log; None when there is no commit."""
    entries = [path for path in sorted(log.iterdir()) if _is_commit(path)]
    if not entries:
        return None
    table = _DeltaTable(shown, columns)
    versions = table.versions(log, entries)
    for version in versions:
        table.apply(log / f"{version:020d}.json")
    active = table.files()
    unlisted = f"version {versions[-1]} of the Delta table does not list it"
    return Listed(
        lambda file: None if file in active else unlisted,
        lambda files: sorted(active - set(files)),
        complete=True,
    )


class _DeltaTable:
    """The state of a Delta table while the commits of its log are applied in row."""

    def __init__(self, shown: str, columns: Collection[str]) -> None:
        self._shown, self._columns = shown, columns
        self._active: dict[str, Any] = {}
        self._partitions: list[str] = []
        """Columns that the files do not hold."""

    def refuse(self, why: str) -> DataError:
        """The error about a table that cannot be read as plain files."""
        return DataError(_refusal(self._shown, "a Delta table", why))

    def versions(self, log: Path, entries: list[Path]) -> list[int]:
        """The versions of the log, from 0. Raises when a part of the log is elsewhere."""
        versions = [int(m[1]) for path in entries if (m := _VERSION.fullmatch(path.name))]
        checkpoints = [int(m[1]) for path in entries if (m := _CHECKPOINT.fullmatch(path.name))]
        if versions != list(range(len(versions))) or any(n >= len(versions) for n in checkpoints):
            raise self.refuse("a part of its log is in checkpoints only")
        if any(path.is_dir() and any(path.iterdir()) for path in (log / "_commits", log / "_staged_commits")):
            raise self.refuse("its commits are coordinated by a catalog")
        return versions

    def apply(self, commit: Path) -> None:
        """Apply the actions of one commit."""
        for line in filter(str.strip, _text(commit, self._shown).splitlines()):
            action = _json(commit, self._shown, line)
            if add := action.get("add"):
                self._active[_relative(add, commit, self._shown, self.refuse)] = add
            elif remove := action.get("remove"):
                self._active.pop(_relative(remove, commit, self._shown, self.refuse), None)
            elif protocol := action.get("protocol"):
                self._check_protocol(protocol)
            elif metadata := action.get("metaData"):
                self._check_metadata(metadata)

    def _check_protocol(self, protocol: dict[str, Any]) -> None:
        others = set(protocol.get("readerFeatures") or ()) - _HARMLESS
        if protocol.get("minReaderVersion", 1) > 3 or others:
            raise self.refuse(f"it needs {', '.join(sorted(others)) or 'a newer reader'}")

    def _check_metadata(self, metadata: dict[str, Any]) -> None:
        if (metadata.get("configuration") or {}).get("delta.columnMapping.mode", "none") != "none":
            raise self.refuse("its columns are mapped to other names")
        self._partitions = sorted(set(metadata.get("partitionColumns") or ()) & set(self._columns))

    def files(self) -> set[str]:
        """The files of the table, by path from its folder. Raises when they hold deleted rows, or lack a column."""
        if any(add.get("deletionVector") for add in self._active.values()):
            raise self.refuse("it has deletion vectors")
        for path, add in self._active.items():
            self._check_folders(path, add.get("partitionValues") or {})
        return set(self._active)

    def _check_folders(self, path: str, values: dict[str, str | None]) -> None:
        """Refuse a file that holds a column neither itself nor in its folders, which are read."""
        keys = path_keys(path) if self._partitions else {}
        for name in self._partitions:
            # the log has null for an empty text
            if name not in keys or (keys[name] or None) != (values.get(name) or None):
                raise self.refuse(f"it is partitioned by {name}, which neither {path} nor its folders hold")


def _relative(action: dict[str, Any], log: Path, shown: str, refuse: Callable[[str], DataError]) -> str:
    path = action.get("path")
    if not isinstance(path, str):
        raise DataError(_damaged(log, shown, "an action has no path"))
    if path.startswith(("/", "file:")) or "://" in path or ".." in path.split("/"):
        raise refuse("its files are outside its folder")
    return unquote(path)


def _sink(log: Path, shown: str) -> Listed | None:
    """The files that a streaming query has committed; None without a batch."""
    batches = [(int(m[1]), bool(m[2]), path) for path in log.iterdir() if (m := _BATCH.fullmatch(path.name))]
    if not batches:
        return None
    first = max((number for number, compact, _ in batches if compact), default=-1)
    files: set[str] = set()
    for number, compact, path in sorted(batches, key=lambda batch: batch[:2]):
        if number < first or (number == first and not compact):
            continue
        for line in _text(path, shown).splitlines()[1:]:
            action = _json(path, shown, line)
            file = unquote(str(action.get("path", "")))
            files = files - {file} if action.get("action") == "delete" else files | {file}
    ends = set(_ends(files))
    return Listed(lambda file: None if file in ends else f"the log of the stream, {SINK_LOG}, does not list it")


def _ends(paths: Iterable[str]) -> Iterable[str]:
    """Each path without its first folders: the log has absolute paths of the machine that wrote it."""
    for path in paths:
        parts = path.split("/")
        yield from ("/".join(parts[first:]) for first in range(len(parts)))
