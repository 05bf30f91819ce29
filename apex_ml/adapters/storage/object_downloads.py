"""Download a drop of an object store into a bounded scratch folder."""

from __future__ import annotations

import hashlib
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from apex_ml.adapters.storage.files import UnreadableError, map_disk_errors
from apex_ml.adapters.storage.inboxes import DropStatus, FetchedDrop
from apex_ml.adapters.storage.local import LONGEST_NAME, with_digest
from apex_ml.adapters.storage.object_store import CHUNK, ObjectStorage
from apex_ml.adapters.storage.storage import StoredFile
from apex_ml.adapters.storage.waiting import Waiting
from apex_ml.errors import ConfigError, DataError


@contextmanager
def download(storage: ObjectStorage, key: str, name: str, scratch: Path, spool_bytes: int) -> Iterator[FetchedDrop]:
    """The object of a drop as a local file, whose sha256 is computed while it arrives. It is removed at the end."""
    folder = scratch / uuid.uuid4().hex
    last = PurePosixPath(name).name  # messages about the file begin with it
    path = with_digest(folder, last, folder.name) if len(last.encode()) > LONGEST_NAME else folder / last
    try:
        with map_disk_errors(folder):
            folder.mkdir()
            file, sha256 = _stream(storage, key, name, path, spool_bytes)
        yield FetchedDrop(Waiting.of(file, name), path, sha256, lambda: _status(storage, file))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def refuse_too_large(name: str, size: int, spool_bytes: int) -> None:
    """Raise :class:`~apex_ml.errors.DataError` for a drop of more bytes than one of an object store may have."""
    if size > spool_bytes:
        raise DataError(
            f"{name}: {size:,} bytes are more than a drop of an object store may have"
            f" ({spool_bytes:,}: APEX_SPOOL_MB); deliver it in parts, or allow more"
        )


def _stream(storage: ObjectStorage, key: str, name: str, path: Path, spool_bytes: int) -> tuple[StoredFile, str]:
    digest = hashlib.sha256()
    try:
        with storage.read(key) as (file, stream), path.open("xb") as copy:
            refuse_too_large(name, file.size, spool_bytes)
            while chunk := stream.read(CHUNK):
                digest.update(chunk)
                copy.write(chunk)
    except ConfigError as error:  # the others may be readable
        raise UnreadableError(f"{name}: {error}") from error
    return file, digest.hexdigest()


def _status(storage: ObjectStorage, file: StoredFile) -> DropStatus:
    try:
        return "same" if storage.stat(file.key) == file else "changed"
    except FileNotFoundError:
        return "gone"
