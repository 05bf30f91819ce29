"""The one rule on names of files: which are never data. The raw folder, the inbox and its trigger share it."""

from __future__ import annotations

TEMPORARY_SUFFIXES = (
    *(".tmp", ".temp", ".part", ".partial", ".filepart", ".crdownload", ".opdownload", ".download", "._copying_"),
    *(".inprogress", ".swp", "~"),
)
"""Suffixes under which WinSCP, browsers, Hadoop, Flink and editors write an unfinished file; in any case."""


def hidden(name: str) -> bool:
    """Whether a file is never data: a marker (``_SUCCESS``), a dot file, a checksum, or an unfinished upload."""
    return name.startswith(("_", ".")) or name.lower().endswith((".crc", "_$folder$")) or is_temporary(name)


def is_temporary(name: str) -> bool:
    """Whether an upload, a download or an editor writes under this name until it renames the file.

    >>> [is_temporary(name) for name in ("a.parquet.filepart", "A.PARQUET.PART", "~$claims.parquet", "a.parquet")]
    [True, True, True, False]
    """
    return name.startswith("~$") or name.lower().endswith(TEMPORARY_SUFFIXES)
