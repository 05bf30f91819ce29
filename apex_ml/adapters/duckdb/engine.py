"""DuckDB connections with the limits of the settings, and DuckDB's errors as errors of Apex."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NewType

import duckdb

from apex_ml.errors import DataError, TransientError
from apex_ml.settings import Settings
from apex_ml.sql.session import FIND_RELATION, HIDE_PROGRESS_BAR, IGNORE_STATISTICS, SHOW_INSTANTS_IN_UTC


class OutOfMemoryError(TransientError):
    """DuckDB has not enough memory, or disk space to spill to, for this work. Smaller work may succeed."""


VALUE_ERRORS = (duckdb.InvalidInputException, duckdb.ConversionException, duckdb.OutOfRangeException)
"""DuckDB's errors about a value that it cannot decode or cast."""
_CLASS = re.compile(r"^([A-Z][A-Za-z ]*Error: )+")
_FOLDER = re.compile(r"/(?:[^/\s'\"]+/)+(?=[^/])")


@contextmanager
def connect(settings: Settings, spill: Path | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open an in-memory DuckDB with the settings' threads and memory, which spills to a temporary folder."""
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
            con.execute(HIDE_PROGRESS_BAR)  # it would fill a task's log
            con.execute(SHOW_INSTANTS_IN_UTC)
            yield con
        finally:
            con.close()


StrictConnection = NewType("StrictConnection", duckdb.DuckDBPyConnection)
"""A connection for files of other writers: it reads their values even where their statistics seem to make it needless.

Statistics are never verified. With wrong ones DuckDB would skip rows, or replace a check by its presumed result.
"""


def make_strict(con: duckdb.DuckDBPyConnection) -> StrictConnection:
    """Make a connection strict for the rest of its life: a file is then checked and read under the same rules."""
    con.execute(IGNORE_STATISTICS)
    return StrictConnection(con)


@contextmanager
def connect_strict(settings: Settings, spill: Path | None = None) -> Iterator[StrictConnection]:
    """Open a connection as :func:`connect` does, for files of other writers."""
    with connect(settings, spill) as con:
        yield make_strict(con)


def one_row(con: duckdb.DuckDBPyConnection, query: str) -> tuple[Any, ...]:
    """Run a query that returns one row, and read all of it: an open result blocks the connection."""
    rows: list[tuple[Any, ...]] = con.execute(query).fetchall()
    return rows[0]


def has(con: duckdb.DuckDBPyConnection, relation: str) -> bool:
    """Whether a table or view of a name exists."""
    return bool(con.execute(FIND_RELATION, [relation]).fetchall())


@contextmanager
def errors_name(what: str) -> Iterator[None]:
    """Turn a DuckDB error into one that names the file or the work in which it occurred."""
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
    """The message of a library's error in one line: without its class, query, stack, and the folder of a file."""
    lines = str(error).splitlines()
    text = _CLASS.sub("", lines[0]).strip() if lines else type(error).__name__
    return _FOLDER.sub("", text).rstrip(".;") or type(error).__name__
