"""The raw files of a run, each content once."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

from apex_ml.adapters.storage.files import digest, name_errors, sha256_of
from apex_ml.adapters.storage.path_keys import column_keys
from apex_ml.adapters.storage.raw_folder import RawFiles
from apex_ml.core.table_version import TableVersion
from apex_ml.services.held_back import held_identity
from apex_ml.services.run_folder import StepContext

logger = logging.getLogger(__name__)
MAX_NAMED = 100
"""The number of skipped files, and of links, that the log and the result name."""


@dataclass(frozen=True)
class RawBatch:
    """The raw files of a run, and how they are validated."""

    context: StepContext
    url: str
    raw: RawFiles
    shas: dict[str, Path]
    """By content, with the columns in its path, the first file with it."""
    copies: dict[Path, list[str]]
    """By first file, the names of the others with the same content."""
    as_of: date | None
    without_newest_day: bool

    @property
    def tables(self) -> tuple[TableVersion, ...]:
        """The versions of the tables that the files are of. The table at the location has the location's own name."""
        last = self.url.rstrip("/").rpartition("/")[2]
        return tuple(replace(table, name=name or last) for name, table in sorted(self.raw.tables.items()))

    @property
    def source(self) -> str:
        """The location, with the versions of its tables, as people read it."""
        return "; ".join([self.url, *map(str, self.tables)])

    @property
    def whole_sha256(self) -> str:
        """Identity of the raw files with their newest day."""
        return digest(sorted(self.shas))

    @property
    def data_sha256(self) -> str:
        """Identity of the data that is validated."""
        return held_identity(sorted(self.shas)) if self.without_newest_day else self.whole_sha256


def hash_files(
    context: StepContext, url: str, raw_folder: RawFiles, as_of: date | None, without_newest_day: bool
) -> RawBatch:
    """Hash the raw files; a second file with the same content is logged and not validated again."""
    shas: dict[str, Path] = {}
    copies: dict[Path, list[str]] = {}
    for path in raw_folder.files:
        with name_errors(path, raw_folder.name(path)):
            first = shas.setdefault(_identity(context, path, raw_folder.name(path)), path)
        if first != path:
            copies.setdefault(first, []).append(raw_folder.name(path))
            logger.warning("file_redelivered file=%s same_bytes_as=%s", raw_folder.name(path), raw_folder.name(first))
    return RawBatch(context, url, raw_folder, shas, copies, as_of, without_newest_day)


def _identity(context: StepContext, path: Path, name: str) -> str:
    """Sha256 of a file; where its folders name columns, of these and the file: in another folder it has other rows."""
    sha256 = sha256_of(path)
    keys = column_keys(context.contract, name)
    return digest([sha256, keys]) if keys else sha256


def log_skipped_files(raw_folder: RawFiles) -> None:
    """Log the files of a raw folder that are not read, and its links to other places."""
    for name, reason in shortened(raw_folder.left_out).items():
        logger.warning("file_left_out file=%s reason=%s", name, reason)
    for name, target in shortened(raw_folder.links).items():
        logger.info("link_followed name=%s to=%s", name, target)


def shortened(entries: dict[str, str]) -> dict[str, str]:
    """The first entries, and how many more there are."""
    if len(entries) <= MAX_NAMED:
        return entries
    return dict(list(entries.items())[:MAX_NAMED]) | {"…": f"and {len(entries) - MAX_NAMED} more"}
