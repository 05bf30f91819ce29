"""The inbox for Airflow's processes: its path, and the files in it that can be drops."""

from __future__ import annotations

import os
import stat
from urllib.parse import unquote, urlparse

from apex_airflow.waiting_objects import WAITING_OBJECTS
from apex_ml.contract.locations import is_object_store
from apex_ml.contract.pipeline import PipelineSettings
from apex_ml.file_names import hidden

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


def list_files(inbox: str) -> FileStates:
    """Return size and mtime of every file in the inbox that can be a drop, by name; folders are left out.

    A file that cannot be read is included: scoring reports and quarantines it.
    """
    files: FileStates = {}
    with os.scandir(inbox) as entries:
        for entry in entries:
            if hidden(entry.name):
                continue
            try:
                status = _stat(entry)
            except FileNotFoundError:  # it was moved to done/ after the listing
                continue
            if not stat.S_ISDIR(status.st_mode):
                files[entry.name] = (status.st_size, status.st_mtime_ns)
    return dict(sorted(files.items()))


def folders_in_inbox(pipeline: PipelineSettings) -> list[str]:
    """Return the visible folders in the inbox of a pipeline, which are no drops."""
    folder = inbox_folder(pipeline.locations.drops)
    try:
        with os.scandir(folder or "") as entries:
            names = [entry.name for entry in entries if not hidden(entry.name) and entry.is_dir()]
    except OSError:  # there is no such folder, or it cannot be listed
        return []
    return sorted(os.fsencode(name).decode("utf-8", "replace") for name in names)


def count_waiting(pipeline: PipelineSettings) -> int | None:
    """Return the number of files in the inbox of a pipeline; None when it cannot be listed now.

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
        return len(list_files(folder))
    except FileNotFoundError:
        return 0
    except OSError:
        return None


def _stat(entry: os.DirEntry[str]) -> os.stat_result:
    try:
        return entry.stat()
    except OSError:  # a broken link, a link to itself, or a failing disk
        return entry.stat(follow_symlinks=False)
