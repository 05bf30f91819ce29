"""The inbox for Airflow's processes: its path, and the files and folders in it that can be drops."""

from __future__ import annotations

import os
import stat
import time
from urllib.parse import unquote, urlparse

from apex_airflow.waiting_objects import WAITING_OBJECTS
from apex_ml.contract.locations import is_object_store
from apex_ml.contract.pipeline import PipelineSettings
from apex_ml.contract.scoring_options import FolderRule
from apex_ml.file_names import hidden
from apex_ml.folder_rule import files_in, why_incomplete

FileStates = dict[str, tuple[int, int]]
"""File name to (bytes, mtime in ns)."""


def inbox_folder(drops: str) -> str | None:
    """Return the inbox below a folder or URL of drops; None when that is not a local folder."""
    folder = local_path(drops)
    return None if folder is None else os.path.join(folder, "inbox")


def local_path(location: str) -> str | None:
    """Return the folder that a location names; None when that is not a local folder."""
    url = urlparse(location)
    if url.scheme not in ("", "file"):
        return None
    return unquote(url.path) if url.scheme else location


def list_files(inbox: str, rule: FolderRule) -> FileStates:
    """Return size and mtime of every file and complete folder in the inbox that can be a drop, by name.

    A file that cannot be read is included: scoring reports and quarantines it. The size of a folder is that of its
    files, and its mtime is the newest of theirs.
    """
    drops, _ = _list(inbox, rule)
    return dict(sorted(drops.items()))


def folders_in_inbox(pipeline: PipelineSettings) -> list[str]:
    """Return the visible folders in the inbox of a pipeline that are no complete drops."""
    folder = inbox_folder(pipeline.locations.drops)
    try:
        _, folders = _list(folder or "", _rule(pipeline))
    except OSError:  # there is no such folder, or it cannot be listed
        return []
    return sorted(os.fsencode(name).decode("utf-8", "replace") for name in folders)


def count_waiting(pipeline: PipelineSettings) -> int | None:
    """Return the number of drops in the inbox of a pipeline; None when it cannot be listed now.

    None, too, where Apex only reads the bucket or the table: what of it waits is in the ledger.
    """
    if pipeline.drops_are_appends:
        return None
    if is_object_store(pipeline.locations.drops):
        return WAITING_OBJECTS.count(pipeline) if pipeline.options.scoring.after == "move" else None
    folder = inbox_folder(pipeline.locations.drops)
    if folder is None:
        return None
    try:
        return len(list_files(folder, _rule(pipeline)))
    except FileNotFoundError:
        return 0
    except OSError:
        return None


def _rule(pipeline: PipelineSettings) -> FolderRule:
    return pipeline.options.scoring.folder_rule(kept=False)


def _list(inbox: str, rule: FolderRule) -> tuple[FileStates, list[str]]:
    """The drops, and the folders that are no complete ones."""
    drops: FileStates = {}
    others: list[str] = []
    with os.scandir(inbox) as entries:
        for entry in entries:
            if hidden(entry.name):
                continue
            try:
                status = _stat(entry)
            except FileNotFoundError:  # it was moved to done/ after the listing
                continue
            if not stat.S_ISDIR(status.st_mode):
                drops[entry.name] = (status.st_size, status.st_mtime_ns)
            elif (state := _folder(entry, rule)) is not None:
                drops[entry.name] = state
            else:
                others.append(entry.name)
    return drops, others


def _folder(entry: os.DirEntry[str], rule: FolderRule) -> tuple[int, int] | None:
    """Size and mtime of a folder that is a drop; None for another one."""
    if entry.is_symlink() or rule.complete == "never":
        return None
    try:
        files = files_in(entry.path)
    except OSError:  # it went away, or cannot be read
        return None
    changed = max((file.arrived_ns for file in files.values()), default=0) / 1e9
    if why_incomplete(rule, files, changed, time.time()) is not None:
        return None
    return sum(file.size for file in files.values()), max(file.modified_ns for file in files.values())


def _stat(entry: os.DirEntry[str]) -> os.stat_result:
    try:
        return entry.stat()
    except OSError:  # a broken link, a link to itself, or a failing disk
        return entry.stat(follow_symlinks=False)
