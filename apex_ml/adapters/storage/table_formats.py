"""Find which files of a folder are data, from the log of a table format or of the writer.

Spark on Databricks marks the files of a commit; a Delta table and a streaming sink write a log. A file that these do
not list belongs to an older state of the table, or is unfinished. Formats whose log Apex does not read are refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from apex_ml.adapters.storage.delta_log import (
    DELTA_LOG,
    damaged,
    is_log_file,
    not_read,
    read_object,
    read_text,
    read_version,
    refusal,
)
from apex_ml.adapters.storage.path_keys import path_keys
from apex_ml.core.table_version import TableVersion
from apex_ml.errors import DataError

STARTED, COMMITTED = "_started_", "_committed_"
TABLE_RECORD = "_apex_table.json"
"""File that names the version and the files of a table whose rows were copied into its folder."""
ICEBERG = "an Iceberg table"
SINK_LOG, HUDI = "_spark_metadata", ".hoodie"
_TRANSACTION = re.compile(r"-tid-(\d+)-")
_BATCH = re.compile(r"(\d+)(\.compact)?")


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
    table: TableVersion | None = None
    """The version of a table that the log is of."""


def listed_files(
    folder: Path, shown: str, names: Collection[str], folders: Collection[str], columns: Collection[str]
) -> Listed | None:
    """The files that a log in the folder lists; None without a log. `columns` must be in the files themselves.

    Raises :class:`~apex_ml.errors.DataError` for a table that cannot be read as plain files.
    """
    if TABLE_RECORD in names:
        return _copied(folder / TABLE_RECORD, shown)
    if (kind := foreign_format(folder, names, folders)) is not None:
        why = "only as locations.raw itself" if kind == ICEBERG else "its log is not read"
        raise DataError(not_read(shown, kind, why))
    if DELTA_LOG in folders and (listed := _delta(folder, shown, columns)) is not None:
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
            return ICEBERG
    return None


def table_above(folder: Path) -> tuple[Path, str] | None:
    """The table that a folder is inside of, and its format; None when it is in no table."""
    for parent in folder.parents:
        try:
            folders = {path.name for path in parent.iterdir() if path.is_dir()} & {DELTA_LOG, HUDI, "metadata"}
            kind = foreign_format(parent, (), folders)
            if kind is None and DELTA_LOG in folders and any(map(is_log_file, os.listdir(parent / DELTA_LOG))):
                kind = "a Delta table"
        except OSError:  # a folder that may not be read is not the user's table
            continue
        if kind is not None:
            return parent, kind
    return None


def _transactions(folder: Path, shown: str, names: Collection[str]) -> Listed | None:
    """The files of Databricks' commit markers. A file that no marker names is data."""
    started = {name.removeprefix(STARTED) for name in names if name.startswith(STARTED)}
    added: dict[str, set[str]] = {}
    removed: dict[str, str] = {}
    for name in sorted(n for n in names if n.startswith(COMMITTED)):
        marker = read_object(folder / name, shown, read_text(folder / name, shown))
        for key in ("added", "removed"):
            listed = marker.get(key) or []
            if not isinstance(listed, list) or not all(isinstance(file, str) for file in listed):
                raise DataError(damaged(folder / name, shown, f"{key} is no list of files"))
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


def _delta(folder: Path, shown: str, columns: Collection[str]) -> Listed | None:
    """The files of the newest version of a Delta table; None when there is no commit."""
    table = read_version(folder, shown)
    if table is None:
        return None
    partitions = sorted(set(table.partitions) & set(columns))
    for path, values in table.files.items() if partitions else ():
        _check_folders(shown, path, partitions, values)
    unlisted = f"version {table.table.version} of the Delta table does not list it"
    return Listed(
        lambda file: None if file in table.files else unlisted,
        lambda files: sorted(table.files.keys() - set(files)),
        complete=True,
        table=table.table,
    )


def _copied(record: Path, shown: str) -> Listed:
    """The copies of a version of a table."""
    content = read_object(record, shown, read_text(record, shown))
    try:
        table, files = TableVersion.from_dict(content), set(content["files"])
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(damaged(record, shown, f"not as Apex wrote it: {error}")) from error
    return Listed(
        lambda file: None if file in files else f"version {table.version} of the table does not list it",
        lambda present: sorted(files - set(present)),
        complete=True,
        table=table,
    )


def _check_folders(shown: str, path: str, partitions: list[str], values: Mapping[str, str | None]) -> None:
    """Refuse a file that holds a column neither itself nor in its folders, which are read."""
    keys = path_keys(path)
    for name in partitions:
        # the log has null for an empty text
        if name not in keys or (keys[name] or None) != (values.get(name) or None):
            raise refusal(shown, f"it is partitioned by {name}, which neither {path} nor its folders hold")


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
        for line in read_text(path, shown).splitlines()[1:]:
            action = read_object(path, shown, line)
            file = unquote(str(action.get("path", "")))
            files = files - {file} if action.get("action") == "delete" else files | {file}
    ends = set(_ends(files))
    return Listed(lambda file: None if file in ends else f"the log of the stream, {SINK_LOG}, does not list it")


def _ends(paths: Iterable[str]) -> Iterable[str]:
    """Each path without its first folders: the log has absolute paths of the machine that wrote it."""
    for path in paths:
        parts = path.split("/")
        yield from ("/".join(parts[first:]) for first in range(len(parts)))
