"""The port to stored data: the operations that folders and object stores have in common.

A key is a path with slashes below one root, such as ``inbox/a.parquet``. Implementations pass one conformance suite,
`tests/adapters/test_storage_port.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol


@dataclass(frozen=True)
class StoredFile:
    """A file at one time. Two states of it are equal when key, size and version are.

    `version` changes with the content: the etag of an object, or modification time and size of a local file.
    `modified_ns` is the time of its last change, in ns since 1970. `arrived_ns` is the time when it got the key, or was
    last written if that is later: a copy may keep the modification time of its original.
    """

    key: str
    size: int
    version: str
    modified_ns: int = field(compare=False)
    arrived_ns: int = field(default=0, compare=False)

    @property
    def name(self) -> str:
        """Last part of the key."""
        return self.key.rpartition("/")[2]


class Storage(Protocol):
    """Files below one root. All methods raise FileNotFoundError for an absent key, unless they say otherwise.

    Errors that a person has to fix are :class:`~apex_ml.errors.DataError` or :class:`~apex_ml.errors.ConfigError`,
    those that may pass are :class:`~apex_ml.errors.TransientError`; each names the file.
    """

    def list(self, prefix: str) -> Iterator[StoredFile]:
        """The files directly below a prefix such as ``inbox/``, in no order, without files that are removed meanwhile.

        A file that cannot be read is listed too. Its error is raised when it is opened.
        """
        ...

    def stat(self, key: str) -> StoredFile:
        """The current state of a file."""
        ...

    def exists(self, key: str) -> bool:
        """Whether anything has this key, readable or not."""
        ...

    def open(self, key: str) -> AbstractContextManager[BinaryIO]:
        """Open a file to read its bytes from the start, as a stream."""
        ...

    def put(self, key: str, content: bytes) -> None:
        """Write a file completely or not at all; it replaces an earlier file of the key."""
        ...

    def put_if_absent(self, key: str, source: Path) -> bool:
        """Store the bytes of a local file under a free key. Returns False and changes nothing when it is taken."""
        ...

    def copy(self, key: str, target: str) -> bool:
        """Copy a file to a free key. Returns False and changes nothing when it is taken."""
        ...

    def delete(self, key: str) -> None:
        """Delete a file; an absent file is no error."""
        ...

    def move(self, key: str, target: str, expected: StoredFile | None = None) -> bool:
        """Move a file to a key that the caller knows to be free; returns whether it was moved.

        Returns False when the file is gone, because another process was faster. With `expected` also when the key now
        has another file, which stays in the storage under this key or a similar one.
        """
        ...
