"""Storage in a folder of this machine. A move is a rename, so that a file is always in exactly one place."""

from __future__ import annotations

import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from apex_ml.adapters.storage.atomic_writes import write_atomically
from apex_ml.adapters.storage.files import map_disk_errors, map_os_errors, open_file, refuse_other_than_file
from apex_ml.adapters.storage.storage import Storage, StoredFile
from apex_ml.errors import ApexError

LONGEST_NAME = 255
"""The length of a file's name, in bytes, that every usual file system allows."""


class LocalStorage(Storage):
    """The files below a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, key: str) -> Path:
        """Path of a key. Raises ValueError for a key that leaves the root."""
        path = self.root / key
        if ".." in Path(key).parts or Path(key).is_absolute():
            raise ValueError(f"{key!r} is no key below {self.root}")
        return path

    def list(self, prefix: str) -> Iterator[StoredFile]:
        """Everything in the folder except folders. A file whose status cannot be read is listed by its link."""
        folder = self.path(prefix)
        with map_disk_errors(folder), os.scandir(folder) as entries:
            for entry in entries:
                if (file := _look_at(entry, f"{prefix.rstrip('/')}/{entry.name}")) is not None:
                    yield file

    def stat(self, key: str) -> StoredFile:
        """A file now, through links. Raises as :func:`~apex_ml.adapters.storage.files.open_file` does."""
        return local_stat(self.path(key), key)

    def exists(self, key: str) -> bool:
        """Whether anything has this name, a broken link included."""
        return os.path.lexists(self.path(key))

    @contextmanager
    def open(self, key: str) -> Iterator[BinaryIO]:
        """Open as :func:`~apex_ml.adapters.storage.files.open_file` does."""
        with open_file(self.path(key)) as file:
            yield file

    def put(self, key: str, content: bytes) -> None:
        """Write a temporary file and rename it."""
        write_atomically(self.path(key), content)

    def put_if_absent(self, key: str, source: Path) -> bool:
        """Write a temporary file and link it, which fails when the name is taken."""
        path = self.path(key)
        with map_disk_errors(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{uuid.uuid4().hex[:12]}.tmp")
            try:
                with open_file(source) as file, temporary.open("wb") as copy:
                    shutil.copyfileobj(file, copy, 1 << 20)
                    copy.flush()
                    os.fsync(copy.fileno())
                os.link(temporary, path)
            except FileExistsError:
                return False
            finally:
                temporary.unlink(missing_ok=True)
        return True

    def copy(self, key: str, target: str) -> bool:
        """Copy through :meth:`put_if_absent`."""
        return self.put_if_absent(target, self.path(key))

    def delete(self, key: str) -> None:
        """Remove the name."""
        with map_disk_errors(self.path(key).parent):
            self.path(key).unlink(missing_ok=True)

    def move(self, key: str, target: str, expected: StoredFile | None = None) -> bool:
        """Rename, compare with the expected file, and put it back when it differs."""
        source, path = self.path(key), self.path(target)
        with map_disk_errors(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            # another process may have moved it, or its owner removed it
            with suppress(FileNotFoundError):
                source.rename(path)
                if expected is None or _is_still(path, expected):
                    return True
                put_back(path, source)
        return False


def local_stat(path: Path, key: str) -> StoredFile:
    """The current state of a local file. Raises FileNotFoundError, and as `open_file` does for an unreadable file."""
    with map_os_errors(path):
        status, link = path.stat(), path.lstat()
    refuse_other_than_file(path.name, status.st_mode)
    return _stored(key, status, link)


def put_back(moved: Path, place: Path) -> None:
    """Move a file back, or beside its old place when another file has arrived there."""
    try:
        os.link(moved, place, follow_symlinks=False)
    except FileExistsError:
        os.link(moved, with_digest(place.parent, place.name, uuid.uuid4().hex), follow_symlinks=False)
    except PermissionError:  # a folder cannot have a second name
        moved.rename(place)
        return
    moved.unlink()


def with_digest(folder: Path, name: str, digest: str, longest: int = LONGEST_NAME) -> Path:
    """The name with a part of a digest before its suffix, shortened when it would be too long."""
    kind = Path(name).suffix if len(Path(name).suffix) <= len(".parquet") else ""
    stem = os.fsencode(name.removesuffix(kind))[: longest - len(f".{digest[:12]}{kind}".encode())]
    return folder / f"{stem.decode('utf-8', 'ignore')}.{digest[:12]}{kind}"


def _look_at(entry: os.DirEntry[str], key: str) -> StoredFile | None:
    try:
        link = status = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None
    with suppress(OSError):  # a link to nothing or to itself, a failing disk: reported when it is opened
        status = entry.stat()
    return None if stat.S_ISDIR(status.st_mode) else _stored(key, status, link)


def _stored(key: str, status: os.stat_result, link: os.stat_result) -> StoredFile:
    version = f"{status.st_mtime_ns:x}-{status.st_size:x}"
    return StoredFile(key, status.st_size, version, status.st_mtime_ns, max(status.st_ctime_ns, link.st_ctime_ns))


def _is_still(path: Path, expected: StoredFile) -> bool:
    try:
        return local_stat(path, expected.key) == expected
    except (ApexError, FileNotFoundError):
        return path.is_symlink()  # a relative link, which was read at its old place and leads elsewhere from here
