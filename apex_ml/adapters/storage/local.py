"""The store: the only place that opens data locations.

A location is a URL of the settings; today a folder, plain or as ``file://``. Files appear under their final name only
when complete: everything is written beside its place under a hidden name, synced, and renamed.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import shutil
import stat
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from apex_ml.adapters.storage.table_formats import DELTA_LOG, SINK_LOG, Listed, listed_files, table_above
from apex_ml.errors import ConfigError, DataError, TransientError
from apex_ml.file_names import hidden
from apex_ml.json_text import json_text
from apex_ml.text import visible
from apex_ml.wording import counted

PARQUET_MAGIC, ENCRYPTED_MAGIC = b"PAR1", b"PARE"
SMALLEST_PARQUET = 12
"""Bytes: the magic number at both ends and the length of the footer."""
_NO_FILE = frozenset((errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ENXIO))
"""What is said of a name that leads to no file: it stays so until a person mends it."""
_KINDS = ((stat.S_ISDIR, "folder"), (stat.S_ISFIFO, "pipe"), (stat.S_ISSOCK, "socket"))


class UnreadableError(TransientError):
    """A file is there and cannot be read for the moment, as on a disk or a network that fails."""


@contextmanager
def unreadable_is_told(path: Path) -> Iterator[None]:
    """Turn what the system says of a file into an error that names it; FileNotFoundError stays when nothing is there.

    Raises :class:`~apex_ml.errors.DataError` for what a person has to mend, else :class:`UnreadableError`.
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
    """Raise :class:`~apex_ml.errors.DataError` for what is no file by its mode."""
    if not stat.S_ISREG(mode):
        kind = next((kind for is_one, kind in _KINDS if is_one(mode)), "device")
        raise DataError(f"{name}: is a {kind}; deliver a plain file")


@contextmanager
def errors_call_it(path: Path, name: str) -> Iterator[None]:
    """Let errors that begin with a file's last name begin with `name`, its path from a folder that people know."""
    try:
        yield
    except (DataError, TransientError) as error:
        last = visible(path.name)  # as errors show it
        if name == path.name or not str(error).startswith(last):
            raise
        raise type(error)(name + str(error).removeprefix(last)) from error


@contextmanager
def open_file(path: Path) -> Iterator[io.BufferedReader]:
    """Open a file to read its bytes, without waiting for a writer where it is a pipe.

    Raises as :func:`unreadable_is_told` and :func:`refuse_other_than_file` do, also while it is read.
    """
    with (
        unreadable_is_told(path),
        open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file,
    ):
        refuse_other_than_file(path.name, os.fstat(file.fileno()).st_mode)
        yield file


def local_folder(url: str, setting: str) -> Path:
    """Turn a location into a folder path.

    Raises :class:`~apex_ml.errors.ConfigError` for a scheme that this version cannot open, naming the setting.
    """
    parsed = urlparse(url)
    if parsed.scheme == "file":
        return Path(unquote(parsed.path))
    if "://" in url:
        raise ConfigError(f"{setting}={url}: the scheme {parsed.scheme}:// is not supported; use a folder or file://")
    return Path(url).absolute()


@dataclass(frozen=True)
class RawFiles:
    """The data files below a folder, sorted, and what of it is not read.

    `left_out` has the reason by name, `links` where a link leads that was followed. A name is the path from the folder.
    """

    root: Path
    files: tuple[Path, ...]
    left_out: dict[str, str]
    links: dict[str, str]

    def name(self, path: Path) -> str:
        """The name of a file in messages and reports: many folders may hold a part-00000.parquet."""
        return path.relative_to(self.root).as_posix()


def refuse_file(folder: Path, setting: str) -> Path:
    """The folder itself. Raises :class:`~apex_ml.errors.ConfigError` when it, or a folder above it, is a file."""
    if (file := _file_at(folder)) is not None:
        raise ConfigError(f"{setting}={folder}: {file} is a file, no folder; {_remedy(setting, file)}")
    return folder


def _file_at(folder: Path) -> Path | None:
    return next((path for path in (folder, *folder.parents) if path.exists() and not path.is_dir()), None)


def _remedy(setting: str, file: Path) -> str:
    return f"set {setting} to a folder, such as {file.parent}"


def data_files(folder: Path, setting: str) -> list[Path]:
    """List the data files below a folder, sorted. See :func:`raw_files`."""
    return list(raw_files(folder, setting).files)


def raw_files(folder: Path, setting: str, columns: Collection[str] = ()) -> RawFiles:
    """Find the data files below a folder; marker, temporary and dot files are none.

    Links to folders are followed, but not to a folder that is read already or that holds this one. Files that a commit
    marker of Databricks, the log of a Delta table or of a stream does not list are left out. `columns` are those that
    the files themselves must hold. Raises :class:`~apex_ml.errors.DataError` when there is no folder or no data file in
    it, or a table of a format that is not supported.
    """
    if (file := _file_at(folder)) is not None:
        raise DataError(
            f"{setting}={folder}: {'this' if file == folder else file} is a file, no folder; {_remedy(setting, file)}"
        )
    if not folder.is_dir():
        raise DataError(
            f"{setting}={folder}: no such folder; create it or set {setting} to the folder of parquet files"
        )
    if (above := table_above(folder.resolve())) is not None:
        table, kind = above
        raise DataError(
            f"{setting}={folder}: lies in {kind}, {table}, whose log tells which files are data; name that folder"
        )
    found = _Walk(folder, columns)
    found.walk()
    if not found.files:
        why = "".join(f"; {name}: {reason}" for name, reason in list(found.left_out.items())[:10])
        raise DataError(
            f"{setting}={folder}: no data files; put parquet files there, or generate some: apex simulate{why}"
        )
    return RawFiles(folder, tuple(sorted(found.files)), dict(sorted(found.left_out.items())), found.links)


def _leads_to_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: it is told as a file that cannot be read
        return False


class _Walk:
    """One walk through a folder: real folders first, then the links, so that a link never takes a folder's place."""

    def __init__(self, root: Path, columns: Collection[str]) -> None:
        self.files: list[Path] = []
        self.left_out: dict[str, str] = {}
        self.links: dict[str, str] = {}
        self._root, self._columns = root, columns
        self._real = root.resolve()
        self._seen: dict[tuple[int, int], str] = {}
        self._waiting: list[tuple[Path, str, str, Listed | None]] = []
        self._logs: dict[str, Listed] = {}

    def walk(self) -> None:
        self._folder(self._root, "", "", None)
        while self._waiting:
            self._waiting.sort(key=lambda link: link[1])
            self._link(*self._waiting.pop(0))
        for name, listed in self._logs.items():
            self._missing(listed, name)

    def _link(self, path: Path, name: str, base: str, listed: Listed | None) -> None:
        target = path.resolve()
        found = target.stat()
        if (known := self._seen.get((found.st_dev, found.st_ino))) is not None:
            self.left_out[name] = f"a link to {known or 'the folder itself'}, which is read already"
        elif self._real.is_relative_to(target):
            self.left_out[name] = f"a link to {target}, which holds this folder"
        else:
            self.links[name] = str(target)
            self._folder(path, name, base, listed)

    def _folder(self, path: Path, name: str, base: str, listed: Listed | None) -> None:
        """Look into a folder. `listed` is what a log in the folder `base` lists for it, by paths from there."""
        try:
            with unreadable_is_told(path):
                found = path.stat()
                entries = sorted(os.scandir(path), key=lambda entry: entry.name)
                folders = {entry.name for entry in entries if _leads_to_folder(entry)}
                names = {entry.name for entry in entries} - folders
                own = listed_files(path, name or str(self._root), names, folders, self._columns)
        except FileNotFoundError as error:
            raise DataError(f"{name or path}: was removed while it was read; run again") from error
        self._seen[found.st_dev, found.st_ino] = name
        if own is not None and (listed is None or not listed.complete):  # a table's log is about all below it
            base, listed = name, own
            self._logs[name] = own
        for entry in entries:
            entry_name = f"{name}/{entry.name}" if name else entry.name
            if hidden(entry.name):
                self._hidden(entry, entry_name)
            elif entry.name in folders:
                if entry.is_symlink():
                    self._waiting.append((Path(entry.path), entry_name, base, listed))
                else:
                    self._folder(Path(entry.path), entry_name, base, listed)
            elif listed is not None and (why := listed.why(entry_name[len(base) :].removeprefix("/"))) is not None:
                self.left_out[entry_name] = why
            else:
                self._file(entry, entry_name)

    def _missing(self, listed: Listed, name: str) -> None:
        folder = self._root / name
        absent = listed.missing({f.relative_to(folder).as_posix() for f in self.files if f.is_relative_to(folder)})
        if absent and listed.complete:
            raise DataError(
                f"{name or self._root}: {counted(len(absent), 'file')} that its log lists cannot be found, such as"
                f" {absent[0]}; deliver the whole folder"
            )
        self.left_out |= {f"{name}/{f}" if name else f: "a commit marker lists it, and it is not there" for f in absent}

    def _hidden(self, entry: os.DirEntry[str], name: str) -> None:
        if _leads_to_folder(entry) and entry.name not in (DELTA_LOG, SINK_LOG):
            self.left_out[name] = "a folder whose name begins with _ or . is never data"
        elif ".parquet" in entry.name.lower() and not entry.name.lower().endswith(".crc"):
            self.left_out[name] = "its name is that of a marker or of an unfinished upload"

    def _file(self, entry: os.DirEntry[str], name: str) -> None:
        path = Path(entry.path)
        if entry.is_symlink() and path.exists() and not (target := path.resolve()).is_relative_to(self._real):
            self.links[name] = str(target)
        self.files.append(path)


def lacks_footer(path: Path) -> bool:
    """Whether a file is empty or begins as parquet does, and has no footer yet: the rest of it may still arrive.

    Bytes that are reserved and not written yet, which read as zeros, count as empty. Raises as :func:`open_file` does.
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

    Raises :class:`~apex_ml.errors.DataError` naming the file and what is wrong with it, and :class:`UnreadableError`.
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
    if head == ENCRYPTED_MAGIC:
        raise DataError(f"{path.name}: an encrypted parquet file; Apex holds no keys: deliver it without encryption")
    if head != PARQUET_MAGIC:
        raise DataError(f"{path.name}: not a parquet file ({size} bytes); deliver it again as parquet")
    if tail != PARQUET_MAGIC or size < SMALLEST_PARQUET:
        raise DataError(f"{path.name}: a truncated parquet file ({size} bytes, no footer); deliver it again")


def sha256_of(path: Path) -> str:
    """Sha256 of a file's bytes, as hex. Raises as :func:`open_file` does."""
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(content: Any) -> str:
    """Sha256 of a JSON-able value, keys sorted, as hex."""
    return hashlib.sha256(json_text(content, sort_keys=True, default=str).encode()).hexdigest()


@contextmanager
def full_disk_is_told(place: Path) -> Iterator[None]:
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


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield a hidden path for the block to write, that becomes `path` when it ends well, and vanishes otherwise."""
    with full_disk_is_told(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
        try:
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all."""
    with new_file(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a hidden folder that becomes `path` when the block ends well, and vanishes otherwise.

    A folder that already stands at `path` is kept beside it as ``<name>.replaced-<n>``.
    """
    with scratch_folder(path.parent, path.name) as temporary:
        yield temporary
        if path.exists():
            n = 1
            while (aside := path.with_name(f"{path.name}.replaced-{n}")).exists():
                n += 1
            path.rename(aside)
        temporary.rename(path)


@contextmanager
def scratch_folder(parent: Path, name: str) -> Iterator[Path]:
    """Yield a hidden folder that is removed at the end; leftovers of a process that was killed are removed first."""
    with full_disk_is_told(parent):
        parent.mkdir(parents=True, exist_ok=True)
        for left in parent.glob(f".{name}.*.partial"):
            if not _alive(left):
                shutil.rmtree(left, ignore_errors=True)
        temporary = parent / f".{name}.{os.getpid()}-{uuid.uuid4().hex[:6]}.partial"
        temporary.mkdir()
        try:
            yield temporary
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _alive(partial: Path) -> bool:
    try:
        pid = int(partial.name.removesuffix(".partial").rsplit(".", 1)[1].split("-")[0])
        os.kill(pid, 0)
    except (ValueError, IndexError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return pid != os.getpid()
