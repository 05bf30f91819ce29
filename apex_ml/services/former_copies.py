"""Copies of raw files and table logs whose location no pipeline names any more."""

from __future__ import annotations

import shutil
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from apex_ml.adapters.storage.mirror import locked
from apex_ml.contract.pipeline import PipelineSettings
from apex_ml.services.raw_location import spool_place
from apex_ml.settings import Settings

KINDS = ("raw", "drops")
UNUSED_SECONDS = 86_400.0
"""Age of the last download from which a copy counts as unused: a command may still read a younger one."""


@dataclass(frozen=True)
class FormerCopies:
    """The copies of a location."""

    folder: Path
    bytes: int


def find_former_copies(
    settings: Settings, pipelines: Sequence[PipelineSettings], unreadable: Collection[str]
) -> list[FormerCopies]:
    """The copies that no pipeline needs. Those of pipelines whose file is `unreadable` stay."""
    needed = {
        settings.spool / pipeline.name / kind / spool_place(url)
        for pipeline in pipelines
        for kind, url in zip(KINDS, (pipeline.locations.raw, pipeline.locations.drops), strict=True)
    }
    before = time.time() - UNUSED_SECONDS
    folders = [folder for kind in KINDS for folder in settings.spool.glob(f"*/{kind}/*") if folder.is_dir()]
    return [
        FormerCopies(folder, sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()))
        for folder in sorted(folders)
        if folder not in needed and folder.parts[-3] not in unreadable and _last_use(folder) < before
    ]


def remove_former_copies(copies: Sequence[FormerCopies]) -> None:
    """Remove the copies and what is known of them. After a kill the next call continues."""
    for former in copies:
        with locked(former.folder):
            _record(former.folder).unlink(missing_ok=True)
            shutil.rmtree(former.folder)


def _record(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.json")


def _last_use(folder: Path) -> float:
    """When the copies were last compared with their location."""
    times = [folder.stat().st_mtime]
    for file in (_record(folder), folder.with_name(f"{folder.name}.lock")):
        with suppress(FileNotFoundError):
            times.append(file.stat().st_mtime)
    return max(times)
