"""Storage in an object store (S3, Google Cloud Storage, Azure) through obstore.

There is no rename: a move is a copy and a deletion, so that a killed move leaves two files, never none. A put is atomic
by itself. Whether a put "only if absent" is honoured depends on the server: :meth:`ObjectStorage.honours_conditions`
asks it.
"""

from __future__ import annotations

import io
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

import obstore
from obstore.exceptions import AlreadyExistsError, NotSupportedError

from apex_ml.adapters.storage.object_errors import StoreUnavailableError, map_store_errors
from apex_ml.adapters.storage.storage import Storage, StoredFile

if TYPE_CHECKING:
    from obstore import GetResult, ObjectMeta
    from obstore.store import ObjectStore

CHUNK = 8 << 20
"""Bytes that are requested from a stream at once."""
PROBE = ".apex-probe"
"""Beginning of the keys with which the server's conditional puts are tried."""


class ObjectStorage(Storage):
    """The objects below a prefix. `url` is the location as the pipeline's file gives it, for messages."""

    def __init__(self, store: ObjectStore, url: str) -> None:
        self.store, self.url = store, url.rstrip("/")

    def place(self, key: str) -> str:
        """The URL of a key. Raises ValueError for a key that leaves the root."""
        if ".." in Path(key).parts or key.startswith("/"):
            raise ValueError(f"{key!r} is no key below {self.url}")
        return f"{self.url}/{key}"

    def list(self, prefix: str) -> Iterator[StoredFile]:
        """The objects directly below a prefix."""
        yield from self.level(prefix)[0]

    def folders(self, prefix: str) -> Sequence[str]:
        """The names directly below a prefix that are beginnings of longer keys."""
        return self.level(prefix)[1]

    def level(self, prefix: str) -> tuple[Sequence[StoredFile], Sequence[str]]:
        """The objects directly below a prefix, and the names there that are beginnings of longer keys."""
        with map_store_errors(self.place(prefix)):
            listed = obstore.list_with_delimiter(self.store, prefix.rstrip("/"))
        files = [file for meta in listed["objects"] if (file := _stored(meta)).name]
        return files, sorted(path.rstrip("/").rpartition("/")[2] for path in listed["common_prefixes"])

    def list_all(self, prefix: str, after: str | None = None) -> Iterator[StoredFile]:
        """The objects at any depth below a prefix, sorted by key; with `after` only those of later keys.

        Markers of folders, empty objects whose keys end in a slash, are left out.
        """
        place = self.place(prefix)
        with map_store_errors(place):
            for chunk in obstore.list(self.store, prefix.rstrip("/") or None, offset=after, chunk_size=1000):
                for file in map(_stored, chunk):
                    # a listing leaves the slash out, and nothing has the key without it
                    if file.name and (file.size or self.exists(file.key)):
                        yield file

    async def list_async(self, prefix: str, *, deep: bool, after: str | None = None) -> Sequence[StoredFile]:
        """As :meth:`list`, or with `deep` as :meth:`list_all`, without keeping a thread waiting."""
        with map_store_errors(self.place(prefix)):
            if not deep:
                listed = await obstore.list_with_delimiter_async(self.store, prefix.rstrip("/"))
                return [file for meta in listed["objects"] if (file := _stored(meta)).name]
            pages = obstore.list(self.store, prefix.rstrip("/") or None, offset=after, chunk_size=1000)
            chunks = [chunk async for chunk in pages]
        return [file for chunk in chunks for meta in chunk if (file := _stored(meta)).name]

    def stat(self, key: str) -> StoredFile:
        """The current state of an object, by one request."""
        with map_store_errors(self.place(key)):
            return _stored(obstore.head(self.store, key))

    def exists(self, key: str) -> bool:
        """Whether there is an object with this key."""
        try:
            self.stat(key)
        except FileNotFoundError:
            return False
        return True

    @contextmanager
    def open(self, key: str) -> Iterator[BinaryIO]:
        """Open an object as one stream of one version."""
        with self.read(key) as (_, file):
            yield file

    @contextmanager
    def read(self, key: str) -> Iterator[tuple[StoredFile, BinaryIO]]:
        """Open an object as one stream, with the state of exactly the version that is read.

        Raises :class:`StoreUnavailableError`, also while it is read, when the connection breaks or the stream ends
        early.
        """
        place = self.place(key)
        with map_store_errors(place):
            result = obstore.get(self.store, key)
            file = _stored(result.meta)
        # BufferedReader accepts any raw stream; only its annotation wants one of the standard library's
        yield file, cast(BinaryIO, io.BufferedReader(_Stream(result, place, file.size), CHUNK))

    def put(self, key: str, content: bytes) -> None:
        """Write an object; other readers see the whole object or the one before."""
        with map_store_errors(self.place(key)):
            obstore.put(self.store, key, content)

    def put_file(self, key: str, source: Path) -> None:
        """Write the bytes of a file, a large one in parts; other readers see the whole object or the one before."""
        with map_store_errors(self.place(key)):
            obstore.put(self.store, key, source)

    def put_if_absent(self, key: str, source: Path) -> bool:
        """Write the bytes of a file by one conditional put; where those are ignored, look first."""
        if not self.honours_conditions and self.exists(key):
            return False
        with map_store_errors(self.place(key)), source.open("rb") as file:
            try:
                if self.honours_conditions:
                    obstore.put(self.store, key, file, mode="create")
                else:
                    obstore.put(self.store, key, file)
            except AlreadyExistsError:
                return False
        return True

    def copy(self, key: str, target: str) -> bool:
        """Copy inside of the server; where it cannot do that under a condition, look first."""
        self.place(target)
        with map_store_errors(self.place(key)):
            if self.honours_conditions:
                try:
                    obstore.copy(self.store, key, target, overwrite=False)
                    return True
                except AlreadyExistsError:
                    return False
                except NotSupportedError:
                    pass
        if self.exists(target):
            return False
        with map_store_errors(self.place(key)):
            obstore.copy(self.store, key, target, overwrite=True)
        return True

    def delete(self, key: str) -> None:
        """Delete an object."""
        try:
            with map_store_errors(self.place(key)):
                obstore.delete(self.store, key)
        except FileNotFoundError:
            return

    def move(self, key: str, target: str, expected: StoredFile | None = None) -> bool:
        """Copy to a free key, then delete the original, unless it was replaced meanwhile.

        An object that replaces the original between the last look and the deletion, a few milliseconds, is deleted
        with it: writers give every object a key of its own.
        """
        try:
            before = self.stat(key)
            if expected is not None and before != expected:
                return False
            return self.copy(key, target) and self.delete_same(key, before)
        except FileNotFoundError:
            return False

    def delete_same(self, key: str, expected: StoredFile) -> bool:
        """Delete an object unless another one has its key now; returns whether it was deleted.

        Raises FileNotFoundError when it is gone.
        """
        if self.stat(key) != expected:
            return False
        self.delete(key)
        return True

    @cached_property
    def honours_conditions(self) -> bool:
        """Whether the server refuses a second put of a key that must be absent. Some accept it without a word."""
        key = f"{PROBE}-{uuid.uuid4().hex[:12]}"
        with map_store_errors(self.place(key)):
            try:
                obstore.put(self.store, key, b"first", mode="create")
                obstore.put(self.store, key, b"second", mode="create")
            except AlreadyExistsError:
                return True
            except NotSupportedError:
                return False
            finally:
                self.delete(key)
        return False


class _Stream(io.RawIOBase):
    """The bytes of one version of an object, as they arrive."""

    def __init__(self, result: GetResult, place: str, size: int) -> None:
        super().__init__()
        self._chunks = iter(result.stream(min_chunk_size=CHUNK))
        self._place, self._size, self._read = place, size, 0
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        if not self._rest:
            with map_store_errors(self._place):
                self._rest = memoryview(bytes(next(self._chunks, b"")))
            self._read += len(self._rest)
            if not self._rest and self._read != self._size:
                raise StoreUnavailableError(
                    f"{self._place}: the connection ended after {self._read:,} of {self._size:,} bytes"
                )
        target = memoryview(cast(bytearray, buffer)).cast("B")
        count = min(len(target), len(self._rest))
        target[:count], self._rest = self._rest[:count], self._rest[count:]
        return count


def _stored(meta: ObjectMeta) -> StoredFile:
    changed = int(meta["last_modified"].timestamp() * 1_000_000) * 1000
    # only answers about one object hold the version that a bucket keeps. Some servers write the quotes of an etag in a
    # listing, others do not
    version = (meta["e_tag"] or "").strip('"') or meta["version"] or f"{changed:x}-{meta['size']:x}"
    return StoredFile(meta["path"], meta["size"], version, changed, changed)
