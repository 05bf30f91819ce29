"""Recognise whole, unfinished and damaged parquet files by their first and last bytes."""

from __future__ import annotations

import os
from pathlib import Path

from apex_ml.adapters.storage.files import open_file
from apex_ml.errors import DataError

PARQUET_MAGIC, ENCRYPTED_MAGIC = b"PAR1", b"PARE"
SMALLEST_PARQUET = 12
"""Bytes: the magic number at both ends and the length of the footer."""


def lacks_footer(path: Path) -> bool:
    """Whether a file is empty, or begins like parquet and has no footer yet: the rest may still arrive.

    Reserved bytes that are not written yet, which read as zeros, count as empty. Raises as :func:`open_file` does.
    """
    with open_file(path) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        head = file.read(4)
        file.seek(max(0, size - 4))
        tail = file.read(4)
    begins = not head.strip(b"\0") or any(magic.startswith(head) for magic in (PARQUET_MAGIC, ENCRYPTED_MAGIC))
    return begins and (size < SMALLEST_PARQUET or tail not in (PARQUET_MAGIC, ENCRYPTED_MAGIC))


def check_parquet(path: Path) -> None:
    """Refuse a file that is empty, truncated or not parquet.

    Raises :class:`~apex_ml.errors.DataError` naming the file and the fault, and :class:`UnreadableError`.
    """
    try:
        with open_file(path) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            head = file.read(4)
            file.seek(max(0, size - 4))
            tail = file.read(4)
    except FileNotFoundError as error:
        raise DataError(f"{path.name}: the file was removed while it was being read") from error
    if not size:
        raise DataError(
            f"{path.name}: not a parquet file (0 bytes): it is empty, as after a broken upload; deliver it again"
        )
    if head == ENCRYPTED_MAGIC:
        raise DataError(f"{path.name}: an encrypted parquet file; Apex holds no keys: deliver it without encryption")
    if head != PARQUET_MAGIC:
        raise DataError(
            f"{path.name}: not a parquet file ({size} bytes); deliver it again as parquet, or write format: csv or"
            " format: jsonl under files in the pipeline's file if it is CSV or JSON lines"
        )
    if tail != PARQUET_MAGIC or size < SMALLEST_PARQUET:
        raise DataError(f"{path.name}: a truncated parquet file ({size} bytes, no footer); deliver it again")
