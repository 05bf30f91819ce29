"""Which table format a location has, by the names of its files; no package of the formats is needed."""

from __future__ import annotations

import re
from pathlib import Path

from apex_ml.adapters.storage.delta_log import DELTA_LOG, is_log_file
from apex_ml.adapters.storage.local import LocalStorage
from apex_ml.adapters.storage.storage import Storage
from apex_ml.core.table_version import TableFormat
from apex_ml.errors import ConfigError

METADATA = "metadata"
"""Folder of an Iceberg table's own files."""
METADATA_FILE = re.compile(r"v?(\d+)(?:-[^/]*)?(?:\.gz)?\.metadata\.json(?:\.gz)?")


def table_format(storage: Storage) -> TableFormat | None:
    """The format of the table at a location; None when it is no table."""
    if any(map(is_log_file, _names(storage, DELTA_LOG))):
        return "delta"
    return "iceberg" if metadata_names(storage) else None


def refuse_table(storage: Storage, url: str, setting: str) -> None:
    """Raise :class:`~apex_ml.errors.ConfigError` for a table where drops arrive as files.

    Its files are no drops: a compaction has the same rows in other files.
    """
    if kind := table_format(storage):
        raise ConfigError(
            f"{setting}={url}: is a table; to score its appends write scoring.source: {kind}, else name another place"
        )


def metadata_names(storage: Storage) -> list[str]:
    """The names of the files that describe an Iceberg table, one for each of its commits."""
    return [name for name in _names(storage, METADATA) if METADATA_FILE.fullmatch(name)]


def _names(storage: Storage, folder: str) -> list[str]:
    if isinstance(storage, LocalStorage) and not Path(storage.root, folder).is_dir():
        return []
    return [file.name for file in storage.list(f"{folder}/")]
