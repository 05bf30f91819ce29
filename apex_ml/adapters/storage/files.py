"""Open and hash local files, and turn errors of the system into errors that name the file and the remedy."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from apex_ml.errors import ConfigError, DataError, TransientError
from apex_ml.json_text import json_text
from apex_ml.text import visible

_NO_FILE = frozenset((errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ENXIO))
"""Errors about a name that leads to no file: a person has to fix it."""
_KINDS = ((stat.S_ISDIR, "folder"), (stat.S_ISFIFO, "pipe"), (stat.S_ISSOCK, "socket"))


class UnreadableError(TransientError):
    """A file exists but cannot be read for now, because its disk or network fails."""


@contextmanager
def map_os_errors(path: Path) -> Iterator[None]:
    """Turn an error of the system about a file into one that names it. FileNotFoundError stays for an absent file.

    Raises :class:`~apex_ml.errors.DataError` for a fault that a person has to fix, else :class:`UnreadableError`.
    """
    try:
        yield
    except FileNotFoundError as error:
        if not path.is_symlink():
            raise
        raise DataError(f"{path.name}: is a link to nothing; deliver the file itself") from error
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM):
            remedy = "let the user that runs Apex read it and deliver it again"
        elif error.errno in _NO_FILE:
            remedy = "deliver a plain file"
        else:
            raise UnreadableError(f"{path.name}: cannot be read for now: {error.strerror}") from error
        raise DataError(f"{path.name}: cannot be read ({error.strerror}); {remedy}") from error


def refuse_other_than_file(name: str, mode: int) -> None:
    """Raise :class:`~apex_ml.errors.DataError` when the mode is not that of a plain file."""
    if not stat.S_ISREG(mode):
        kind = next((kind for is_one, kind in _KINDS if is_one(mode)), "device")
        raise DataError(f"{name}: is a {kind}; deliver a plain file")


def leads_to_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder, or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: it is a file that cannot be read
        return False


@contextmanager
def name_errors(path: Path, name: str) -> Iterator[None]:
    """Replace the file name at the start of error messages by `name`, its path from a folder that people know."""
    try:
        yield
    except (DataError, TransientError) as error:
        last = visible(path.name)  # as errors show it
        if name == path.name or not str(error).startswith(last):
            raise
        raise type(error)(name + str(error).removeprefix(last)) from error


@contextmanager
def open_file(path: Path) -> Iterator[io.BufferedReader]:
    """Open a file to read its bytes, without waiting for the writer of a pipe.

    Raises as :func:`map_os_errors` and :func:`refuse_other_than_file` do, also while it is read.
    """
    with (
        map_os_errors(path),
        open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file,
    ):
        refuse_other_than_file(path.name, os.fstat(file.fileno()).st_mode)
        yield file


def sha256_of(path: Path) -> str:
    """Sha256 of a file's bytes, as hex. Raises as :func:`open_file` does."""
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(content: Any) -> str:
    """Sha256 of a JSON-able value, keys sorted, as hex."""
    return hashlib.sha256(json_text(content, sort_keys=True, default=str).encode()).hexdigest()


@contextmanager
def map_disk_errors(place: Path) -> Iterator[None]:
    """Turn a full or read-only disk into an error that names the folder and the remedy."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise TransientError(f"{place}: the disk is full; free space there and run again") from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise ConfigError(
                f"{place}: cannot be written ({error.strerror}); make it writable and run again"
            ) from error
        raise
