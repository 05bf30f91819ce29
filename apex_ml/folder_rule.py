"""The one rule on folders in an inbox: which files are in one, and when it is a complete drop.

The inbox, its trigger and the page share it, so this module imports neither Arrow nor a package of machine learning.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from apex_ml.contract.scoring_options import FolderRule

FOLDER_IS_NO_DROP = "is a folder; deliver the files in it one by one, and remove it"
"""What a person should do about a folder that never is a drop."""


@dataclass(frozen=True)
class FileInFolder:
    """Size in bytes, modification time and time of arrival, in ns since 1970, of a file in a folder."""

    size: int
    modified_ns: int
    arrived_ns: int


def files_in(folder: str | Path) -> dict[str, FileInFolder]:
    """The files at any depth of a folder, by their paths from there, sorted. Links to folders are not followed.

    A file that goes away meanwhile is left out. Raises OSError when the folder cannot be read.
    """
    files: dict[str, FileInFolder] = {}
    waiting = [("", str(folder))]
    while waiting:
        name, path = waiting.pop()
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append((f"{name}{entry.name}/", entry.path))
                    continue
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                files[f"{name}{entry.name}"] = FileInFolder(status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return dict(sorted(files.items()))


def why_incomplete(rule: FolderRule, files: Collection[str], changed_at: float, now: float) -> str | None:
    """Why a folder is no complete drop by a rule, as the rest of a sentence that begins with its name; None when it is.

    `files` are paths from the folder. `changed_at`, the time of the last change in it, and `now` are in seconds since
    1970. Whether every file of a manifest is there is not checked here.
    """
    if rule.complete == "never":
        return FOLDER_IS_NO_DROP
    if not files:
        return "is an empty folder; deliver files in it, or remove it"
    if rule.complete == "quiet":
        if (seconds := max(0.0, now - changed_at)) >= rule.quiet_seconds:
            return None
        return (
            f"is a folder that changed {seconds:.1f} seconds ago; it is a drop when nothing in it has changed for"
            f" {rule.quiet_seconds:g} seconds (scoring.folder_complete)"
        )
    if rule.file in files:
        return None
    return (
        f"is a folder without {rule.file}, which says that it is complete (scoring.folder_complete); write that file"
        " last, or deliver the files in the folder one by one and remove it"
    )
