"""Keep a local copy of the objects below a prefix, so that what reads files needs no other code.

An object whose version and size are those of the copy is not downloaded again, and a file whose object is gone is
removed. Each file is complete or absent; a killed mirror goes on where it ended.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fcntl import LOCK_EX, flock
from pathlib import Path, PurePosixPath

from apex_ml.adapters.storage.atomic_writes import new_file, write_atomically
from apex_ml.adapters.storage.files import map_disk_errors
from apex_ml.adapters.storage.object_store import CHUNK, PROBE, ObjectStorage
from apex_ml.adapters.storage.storage import StoredFile
from apex_ml.errors import DataError
from apex_ml.json_text import json_file

logger = logging.getLogger(__name__)
DOWNLOADS = 8
"""Objects that are downloaded at the same time: most of a small one is waiting."""
Versions = dict[str, list[str | int]]
"""Version and size of the copy, by key."""


@dataclass(frozen=True)
class Mirrored:
    """What a mirror did: the number of objects, of those downloaded now with their bytes, and of removed files."""

    objects: int
    downloaded: int
    downloaded_bytes: int
    removed: int


def mirror(
    storage: ObjectStorage, folder: Path, max_bytes: int, keep: Callable[[str], bool] = lambda key: True
) -> Mirrored:
    """Make a folder hold the objects below a prefix, and nothing else. Waits for another process that does the same.

    Objects whose keys `keep` refuses are left out.

    Raises :class:`~apex_ml.errors.DataError` for a key that cannot be the path of a file, or for more than `max_bytes`
    in all, before anything is downloaded. Errors of the store and of the disk name the object and the folder.
    """
    with map_disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        listed = {f.key: f for f in storage.list_all("") if not f.name.startswith(PROBE) and keep(f.key)}
        _refuse(storage, listed, max_bytes)
        record = folder.with_name(f"{folder.name}.json")
        copies = _read(record)
        known = {key: value for key, value in copies.items() if _is_copy(folder / key, listed.get(key), value)}
        removed = _remove_others(folder, set(known))
        new = [file for key, file in sorted(listed.items()) if key not in known]
        try:
            for file in _download(storage, folder, new):
                known[file.key] = [file.version, file.size]
        finally:
            with map_disk_errors(folder):
                write_atomically(record, json_file(known))
    done = Mirrored(len(listed), len(new), sum(file.size for file in new), removed)
    logger.info(
        "objects_mirrored from=%s objects=%d downloaded=%d bytes=%d removed=%d",
        *(storage.url, done.objects, done.downloaded, done.downloaded_bytes, done.removed),
    )
    return done


def refuse_as_path(storage: ObjectStorage, keys: Collection[str]) -> None:
    """Raise :class:`~apex_ml.errors.DataError` for a key that cannot be the path of a file among the others."""
    keys = set(keys)
    for key in keys:
        parts = key.split("/")
        if "" in parts or "." in parts or ".." in parts or any(len(part.encode()) > 240 for part in parts):
            raise DataError(f"{storage.place(key)}: this key cannot be the path of a file; rename the object")
        for above in PurePosixPath(key).parents:
            if above.as_posix() in keys:
                raise DataError(
                    f"{storage.place(key)}: {above} is an object and the beginning of another key, so that both cannot"
                    " be files; rename one"
                )


def _refuse(storage: ObjectStorage, listed: dict[str, StoredFile], max_bytes: int) -> None:
    refuse_as_path(storage, listed)
    if (total := sum(file.size for file in listed.values())) > max_bytes:
        raise DataError(
            f"{storage.url}: {total:,} bytes are more than the copies of a pipeline's raw files may have"
            f" ({max_bytes:,}: APEX_SPOOL_MB); name a smaller prefix, or allow more"
        )


def _download(storage: ObjectStorage, folder: Path, files: list[StoredFile]) -> Iterator[StoredFile]:
    """Download the files; yields the state of each that is complete. The first error ends it."""

    def fetch(file: StoredFile) -> StoredFile:
        path = folder / file.key
        try:
            with new_file(path) as temporary, storage.read(file.key) as (read, stream), temporary.open("wb") as copy:
                shutil.copyfileobj(stream, copy, CHUNK)
        except FileNotFoundError as error:
            raise DataError(f"{storage.place(file.key)}: was removed while it was read; run again") from error
        return read

    with ThreadPoolExecutor(DOWNLOADS) as pool:
        futures = [pool.submit(fetch, file) for file in files]
        try:
            for future in futures:
                yield future.result()
        finally:
            for future in futures:
                future.cancel()


def _is_copy(path: Path, file: StoredFile | None, copy: list[str | int]) -> bool:
    if file is None or copy != [file.version, file.size]:
        return False
    try:
        return path.stat().st_size == file.size
    except OSError:
        return False


def _remove_others(folder: Path, keys: set[str]) -> int:
    """Remove what is no copy of an object, and folders that are then empty."""
    removed = 0
    with map_disk_errors(folder):
        for at, _, names in os.walk(folder, topdown=False):
            for name in names:
                path = Path(at) / name
                if path.relative_to(folder).as_posix() not in keys:
                    path.unlink()
                    removed += 1
            if Path(at) != folder:
                with suppress(OSError):  # it is not empty
                    Path(at).rmdir()
    return removed


def _read(record: Path) -> Versions:
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
        return {str(key): list(value) for key, value in content.items()}
    except (FileNotFoundError, ValueError, AttributeError, TypeError):
        return {}


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Wait until no other process changes a folder of copies, and keep others waiting while the block runs."""
    with map_disk_errors(folder), folder.with_name(f"{folder.name}.lock").open("w") as lock:
        flock(lock, LOCK_EX)
        yield
