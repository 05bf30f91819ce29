"""DuckDB connections with the limits of the settings, and DuckDB's errors in Apex's terms."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb

from apex_ml.errors import DataError, TransientError
from apex_ml.settings import Settings


class OutOfMemoryError(TransientError):
    """DuckDB has not enough memory, or disk to spill to, for this work; a smaller one may succeed."""


VALUE_ERRORS = (duckdb.InvalidInputException, duckdb.ConversionException, duckdb.OutOfRangeException)
"""What DuckDB raises for a value that it cannot decode or cast."""
_CLASS = re.compile(r"^([A-Z][A-Za-z ]*Error: )+")
_FOLDER = re.compile(r"/(?:[^/\s'\"]+/)+(?=[^/])")


@contextmanager
def connect(settings: Settings, spill: Path | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open an in-memory DuckDB that keeps to the settings' threads and memory and spills to a folder that goes away."""
    if spill is not None:
        spill.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".duckdb-", dir=spill) as folder:
        config: dict[str, Any] = {
            "threads": str(settings.threads),
            "memory_limit": f"{settings.memory_limit_mb}MB",
            "temp_directory": folder,
            "preserve_insertion_order": "true",
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
        }
        con = duckdb.connect(":memory:", config=config)
        try:
            con.execute("SET enable_progress_bar = false")  # it would be drawn into a task's log
            yield con
        finally:
            con.close()


def one_row(con: duckdb.DuckDBPyConnection, query: str) -> tuple[Any, ...]:
    """Run a query of one row to its end: a result that is left open blocks the connection."""
    rows: list[tuple[Any, ...]] = con.execute(query).fetchall()
    return rows[0]


def has(con: duckdb.DuckDBPyConnection, relation: str) -> bool:
    """Whether there is a table or view of a name."""
    return bool(con.execute("FROM information_schema.tables WHERE table_name = ?", [relation]).fetchall())


@contextmanager
def errors_name(what: str) -> Iterator[None]:
    """Turn a DuckDB error into one that names the file or the work it happened in."""
    try:
        yield
    except duckdb.OutOfMemoryException as error:
        raise OutOfMemoryError(
            f"{what}: out of memory or disk; raise APEX_MEMORY_LIMIT_MB or free space: {reason_of(error)}"
        ) from error
    except duckdb.IOException as error:
        if "No space left" in str(error):
            raise TransientError(f"{what}: the disk is full; free space and run again: {reason_of(error)}") from error
        raise DataError(f"{what}: cannot be read: {reason_of(error)}; write it again, or check its disk") from error
    except VALUE_ERRORS as error:
        text = f"{what}: a value cannot be read: {reason_of(error)}; correct it where it is written"
        raise DataError(text) from error
    except duckdb.Error as error:
        raise DataError(
            f"{what}: the query failed: {reason_of(error)}; write the data again, and if that does not help report this"
            " with logs/steps.log"
        ) from error


def reason_of(error: Exception) -> str:
    """What an error of a library says, in one line: without its class, query, stack, and the folder of a file."""
    lines = str(error).splitlines()
    text = _CLASS.sub("", lines[0]).strip() if lines else type(error).__name__
    return _FOLDER.sub("", text).rstrip(".;") or type(error).__name__
