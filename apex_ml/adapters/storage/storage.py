"""The port to where data lies: what folders and object stores have in common.

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
    """A file as it was when it was looked at. Two looks are equal when key, size and version are.

    `version` changes with the content: the etag of an object, or modification time and size of a local file.
    `modified_ns` is the time of its last change in ns since 1970. `arrived_ns` is when it came under this key, or was
    last written if that was later: a copy may keep the modification time of its origin.
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
    """Files below one root. All methods raise FileNotFoundError for a key that is not there, unless they say otherwise.

    Errors that a person has to mend are :class:`~apex_ml.errors.DataError` or :class:`~apex_ml.errors.ConfigError`,
    those that may pass are :class:`~apex_ml.errors.TransientError`; each names the file.
    """

    def list(self, prefix: str) -> Iterator[StoredFile]:
        """The files directly below a prefix such as ``inbox/``, in no order; files that vanish meanwhile are left out.

        A file that cannot be read is listed too. Its error is raised when it is opened.
        """
        ...

    def stat(self, key: str) -> StoredFile:
        """A file as it is now."""
        ...

    def exists(self, key: str) -> bool:
        """Whether anything has this key, readable or not."""
        ...

    def open(self, key: str) -> AbstractContextManager[BinaryIO]:
        """Open a file to read its bytes from the start, as a stream."""
        ...

    def put(self, key: str, content: bytes) -> None:
        """Write a file whole or not at all, in place of what has the key."""
        ...

    def put_if_absent(self, key: str, source: Path) -> bool:
        """Store the bytes of a local file under a key that is free; False, and nothing is changed, when it is not."""
        ...

    def copy(self, key: str, target: str) -> bool:
        """Copy a file to a key that is free; False, and nothing is changed, when it is not."""
        ...

    def delete(self, key: str) -> None:
        """Delete a file; no error when it is gone."""
        ...

    def move(self, key: str, target: str, expected: StoredFile | None = None) -> bool:
        """Move a file to a key that the caller knows to be free; True when it was moved.

        False when it is gone, as another process was faster. With `expected`, also when it is no longer that file: what
        took its key stays in the storage under this key, or under one beside it.
        """
        ...
